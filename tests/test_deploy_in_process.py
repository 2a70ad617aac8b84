"""The in-process grid: each message to its own site, each reply once, a raised exception as an error reply."""

import threading
import time
from contextlib import closing
from pathlib import Path

from flwr.app import Message, RecordDict

from deploy.in_process import InProcessGrid

SITES = {"B": Path("/sites/B/site.yaml"), "A": Path("/sites/A/site.yaml")}


def message(node_id):
    return Message(RecordDict(), node_id, "train")


def collect(grid, ids):
    replies, waiting, deadline = {}, list(ids), time.monotonic() + 10
    while waiting and time.monotonic() < deadline:
        for reply in grid.pull_messages(waiting):
            replies[reply.metadata.reply_to_message_id] = reply
            waiting.remove(reply.metadata.reply_to_message_id)
        time.sleep(0.005)
    assert not waiting
    return replies


def test_each_message_reaches_its_site_with_its_configuration():
    heard = {}

    def client_app(sent, context):
        heard[context.node_id] = dict(context.node_config)
        return Message(RecordDict(), reply_to=sent)

    with closing(InProcessGrid(client_app, SITES)) as grid:
        assert grid.node_ids == {"A": 100, "B": 101}
        assert sorted(grid.get_node_ids()) == [100, 101]
        ids = list(grid.push_messages([message(101), message(100)]))
        replies = collect(grid, ids)
        assert [replies[each].metadata.src_node_id for each in ids] == [101, 100]
        assert list(grid.pull_messages(ids)) == []
    assert heard == {
        100: {"site": "A", "config": "/sites/A/site.yaml"},
        101: {"site": "B", "config": "/sites/B/site.yaml"},
    }


def test_sites_work_at_the_same_time_and_a_reply_comes_when_it_is_there():
    together = threading.Barrier(2, timeout=10)

    def client_app(sent, _):
        together.wait()
        return Message(RecordDict(), reply_to=sent)

    with closing(InProcessGrid(client_app, SITES, num_workers=2)) as grid:
        (first,) = grid.push_messages([message(100)])
        assert list(grid.pull_messages([first])) == []
        (second,) = grid.push_messages([message(101)])
        assert set(collect(grid, [first, second])) == {first, second}


def test_an_exception_becomes_an_error_without_its_text(caplog):
    def client_app(_, __):
        raise ValueError("the name of a patient")

    with closing(InProcessGrid(client_app, SITES)) as grid:
        (reply,) = grid.send_and_receive([message(100)])
    assert reply.has_error()
    assert "patient" not in reply.error.reason
    assert "the name of a patient" in caplog.text


def test_the_same_context_serves_a_site_again():
    """What a ClientApp keeps in its context is there in the next round, and only at its own site."""

    seen = []

    def remember(sent, context):
        seen.append((context.node_id, id(context)))
        return Message(RecordDict(), reply_to=sent)

    with closing(InProcessGrid(remember, SITES)) as grid:
        for node in (100, 101, 100):
            grid.send_and_receive([message(node)])
    assert seen[0] == seen[2]
    assert seen[0][1] != seen[1][1]


def test_unknown_ids_have_no_reply():
    with closing(InProcessGrid(lambda sent, _: Message(RecordDict(), reply_to=sent), SITES)) as grid:
        assert list(grid.pull_messages(["message-99"])) == []


def test_a_node_that_is_no_site_gets_an_error(caplog):
    with closing(InProcessGrid(lambda sent, _: Message(RecordDict(), reply_to=sent), SITES)) as grid:
        (reply,) = grid.send_and_receive([message(999)])
    assert reply.has_error()
    assert "KeyError" in caplog.text


def test_no_more_replies_wait_than_threads_work():
    """Ten sites, two threads: the third starts when one of the first two replies has been pulled."""
    sites = {f"S{number}": Path("site.yaml") for number in range(10)}
    began = []

    def client_app(sent, _):
        began.append(sent.metadata.dst_node_id)
        return Message(RecordDict(), reply_to=sent)

    with closing(InProcessGrid(client_app, sites, num_workers=2)) as grid:
        ids = list(grid.push_messages([message(node) for node in grid.get_node_ids()]))
        pulled = set()
        while len(pulled) < len(ids):
            for reply in grid.pull_messages([each for each in ids if each not in pulled]):
                pulled.add(reply.metadata.reply_to_message_id)
                assert len(began) <= len(pulled) + 2
    assert sorted(began) == list(grid.get_node_ids())


def test_a_reply_that_nobody_waits_for_any_more_keeps_nobody_waiting():
    with closing(InProcessGrid(lambda sent, _: Message(RecordDict(), reply_to=sent), SITES, num_workers=1)) as grid:
        (left,) = grid.push_messages([message(100)])
        for node in (100, 101, 100, 101):
            assert collect(grid, grid.push_messages([message(node)]))
        assert list(grid.pull_messages([left])) == []


def test_closing_ends_those_who_wait_for_room():
    grid = InProcessGrid(lambda sent, _: Message(RecordDict(), reply_to=sent), SITES, num_workers=1)
    grid.push_messages([message(100), message(101)])
    grid.close()
    assert list(grid.get_node_ids()) == [100, 101]
