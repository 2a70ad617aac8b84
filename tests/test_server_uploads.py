"""Flower's state of messages as the SuperLink has it: replies that are on their way, whole, broken off, and again."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta

import pytest
from exchange import Exchange, apart
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.federation import NoOpFederationManager

from server import uploads
from server.uploads import KEPT_S, TTL, PatientLinkState, wait_for_slow_lines

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
"""Flower's fault, not ours: how it configures its migrations."""


@pytest.fixture
def exchange(tmp_path, monkeypatch):
    apart(monkeypatch)
    return Exchange(tmp_path)


def test_a_reply_is_handed_out_once_its_last_part_is_here(exchange):
    session, missing = exchange.announce()
    assert set(missing) == set(exchange.parts)
    for name in missing:
        assert exchange.replies() == []
        assert exchange.push(session, name)
    assert exchange.replies() == [exchange.reply.metadata.message_id]
    assert exchange.replies() == []  # once


def test_of_several_replies_one_is_handed_out_at_a_time(exchange):
    asked, reply, parts = exchange.ask()
    session, missing = exchange.announce(reply)
    for name in missing:
        assert exchange.state.store_object(exchange.run, session, name, parts[name])
    session, missing = exchange.announce()
    for name in missing:
        exchange.push(session, name)
    unanswered, *_ = exchange.ask()
    found = [exchange.state.get_message_res({asked, exchange.asked, unanswered}, exchange.run) for _ in range(3)]
    assert [len(each) for each in found] == [1, 1, 0]
    assert {each[0].metadata.reply_to_message_id for each in found[:2]} == {asked, exchange.asked}


def test_a_reply_that_is_announced_while_the_others_are_looked_at_waits_for_its_parts(exchange, monkeypatch):
    """Else the ServerApp would wait for its parts, and hear of no other site, for as long as its node is away."""
    look, written = exchange.state._replies, []

    with ThreadPoolExecutor(1) as pool:

        def look_and_announce(message_ids):
            found = look(message_ids)
            written.append(pool.submit(exchange.announce))
            wait(written, timeout=0.5)  # it has to wait for the lock, and so for what follows
            return found

        monkeypatch.setattr(exchange.state, "_replies", look_and_announce)
        assert exchange.replies() == []
        session, missing = written[0].result()
    monkeypatch.setattr(exchange.state, "_replies", look)
    assert set(missing) == set(exchange.parts)
    for name in missing:
        assert exchange.replies() == []
        assert exchange.push(session, name)
    assert exchange.replies() == [exchange.reply.metadata.message_id]


def test_what_flower_answers_for_a_node_that_is_away_comes_besides(exchange):
    session, missing = exchange.announce()
    exchange.push(session, missing[0])
    unanswered = {exchange.ask()[0] for _ in range(2)}
    exchange.state.deactivate_node(exchange.node)
    found = exchange.state.get_message_res({exchange.asked, *unanswered}, exchange.run)
    assert {each.metadata.reply_to_message_id for each in found} == unanswered
    assert all(each.has_error() for each in found)


def test_a_part_whose_answer_was_lost_may_come_again_and_counts_as_stored(exchange):
    session, missing = exchange.announce()
    assert [exchange.push(session, missing[0]), exchange.push(session, missing[0])] == [True, True]
    for name in missing[1:]:
        exchange.push(session, name)
    assert exchange.push(session, missing[-1])  # the session is over by then
    assert exchange.replies() == [exchange.reply.metadata.message_id]


def test_a_part_that_is_not_what_its_name_says_is_not_stored_and_may_come_right(exchange):
    session, missing = exchange.announce()
    assert not exchange.state.store_object(exchange.run, session, missing[0], b"something else")
    assert not exchange.state.store_object(exchange.run, session, "0" * 64, exchange.parts[missing[0]])
    assert exchange.push(session, missing[0])


def test_an_upload_that_is_announced_again_lacks_what_had_not_come(exchange):
    session, missing = exchange.announce()
    assert exchange.push(session, missing[0])
    again, still_missing = exchange.announce()
    assert set(still_missing) == set(missing[1:])
    assert all(exchange.push(again, name) for name in still_missing)
    assert exchange.replies() == [exchange.reply.metadata.message_id]


def test_a_reply_that_is_announced_again_when_it_is_whole_is_handed_out(exchange):
    session, missing = exchange.announce()
    for name in missing:
        exchange.push(session, name)
    assert exchange.announce()[1] == []
    assert exchange.replies() == [exchange.reply.metadata.message_id]


def test_an_upload_is_forgotten_an_hour_after_its_last_part_and_its_reply_told_as_lost(exchange, monkeypatch):
    session, missing = exchange.announce()
    assert exchange.push(session, missing[0])
    later = now() + timedelta(seconds=KEPT_S - 5)
    for module in (uploads, sql_corestate):
        monkeypatch.setattr(module, "now", lambda: later)
    assert exchange.replies() == []
    assert exchange.push(session, missing[1])  # another hour from here on
    later += timedelta(seconds=KEPT_S + 5)
    assert exchange.replies() == [exchange.reply.metadata.message_id]
    assert exchange.state.get_object(exchange.run, missing[2]) is None


def test_flower_would_hand_out_what_is_not_here_yet_and_refuse_what_comes_again(exchange):
    """Why there is a state of ours."""
    session, missing = exchange.announce()
    assert super(PatientLinkState, exchange.state).get_message_res({exchange.asked}, exchange.run)
    name = missing[0]
    stored = [
        super(PatientLinkState, exchange.state).store_object(exchange.run, session, name, exchange.parts[name])
        for _ in range(2)
    ]
    assert stored == [True, False]


def test_the_superlink_makes_this_state_and_keeps_uploads_so_long(monkeypatch, tmp_path):
    monkeypatch.setitem(vars(uploads.linkstate_factory), "SqlLinkState", uploads.SqlLinkState)
    monkeypatch.setattr(sql_corestate, TTL, 180)
    wait_for_slow_lines()
    store = type("Factory", (), {"store": lambda self: SqlObjectStore(str(tmp_path / "state.db"))})()
    factory = uploads.linkstate_factory.LinkStateFactory(str(tmp_path / "state.db"), NoOpFederationManager(), store)
    assert type(factory.state()) is PatientLinkState
    assert sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS == KEPT_S
