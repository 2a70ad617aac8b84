"""What was received is not asked for again, is checked before it is used, and takes no more room than it may."""

import hashlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.message_pb2 import ObjectTree

from client.node_queue import Link
from client.received_objects import FOLDER, LEAST_BYTES, ReceivedObjects
from common.object_files import FOUND, LONGEST_SIZE

LONGEST_BEFORE = len(FOUND) + LONGEST_SIZE
"""Bytes before a content in its file, at most."""


def part(number: int, size: int = LEAST_BYTES) -> bytes:
    """An object of Flower's with `size` bytes in it."""
    return b"ArrayChunk  %d\x00" % size + bytes([number]) * size


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Coordinator:
    """Gives the parts that it has, and notes what it was asked for."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = {name_of(each): each for each in parts}
        self.asked: list[str] = []

    def __call__(self, name: str) -> bytes:
        self.asked.append(name)
        return self.parts[name]


def test_a_part_is_asked_for_once_also_by_a_node_that_was_started_again(tmp_path: Path) -> None:
    side, content = Coordinator(part(1)), part(1)
    for _ in range(2):
        received = ReceivedObjects(tmp_path, 10**9)
        assert received.before(side)(name_of(content)) == content
        assert received.before(side)(name_of(content)) == content
    assert side.asked == [name_of(content)]
    assert (tmp_path / FOLDER).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_what_was_changed_on_the_disk_is_asked_for_again(tmp_path: Path, damage: bytes | None) -> None:
    side, content = Coordinator(part(1)), part(1)
    pull = ReceivedObjects(tmp_path, 10**9).before(side)
    pull(name_of(content))
    path = tmp_path / FOLDER / name_of(content)
    ReceivedObjects(tmp_path, 10**9)._files.write(name_of(content), part(2))  # whole, but another's
    if damage is not None:
        path.write_bytes(damage)
    assert [pull(name_of(content)), pull(name_of(content))] == [content, content]
    assert side.asked == [name_of(content)] * 2


def test_small_objects_are_not_kept(tmp_path: Path) -> None:
    side, content = Coordinator(part(1, 100)), part(1, 100)
    pull = ReceivedObjects(tmp_path, 10**9).before(side)
    assert [pull(name_of(content)), pull(name_of(content))] == [content, content]
    assert len(side.asked) == 2


def test_nothing_is_written_where_nothing_may_stay(tmp_path: Path) -> None:
    side, content = Coordinator(part(1)), part(1)
    received = ReceivedObjects(tmp_path, 0)
    assert received.before(side)(name_of(content)) == content
    received.trim()
    assert list(tmp_path.iterdir()) == []


def test_the_part_that_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    contents = [part(number) for number in range(3)]
    side = Coordinator(*contents)
    received = ReceivedObjects(tmp_path, 2 * (len(contents[0]) + LONGEST_BEFORE))
    pull = received.before(side)
    for age, content in enumerate(contents):
        pull(name_of(content))
        os.utime(tmp_path / FOLDER / name_of(content), (age, age))
    pull(name_of(contents[0]))  # used now
    received.trim()
    left = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert left == {name_of(contents[0]), name_of(contents[2])}


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.object_files.ObjectFiles.write", full)
    side, content = Coordinator(part(1)), part(1)
    assert ReceivedObjects(tmp_path, 10**9).before(side)(name_of(content)) == content
    assert "what was received is not kept (No space left on device)" in caplog.text


def test_of_a_message_that_was_cut_short_the_rest_alone_is_pulled(tmp_path: Path) -> None:
    contents = [part(number) for number in range(4)]
    side = Coordinator(*contents)
    tree = ObjectTree(
        object_id=name_of(contents[3]), children=[ObjectTree(object_id=name_of(each)) for each in contents[:3]]
    )

    came, is_cut = threading.Semaphore(0), True

    def pull(_run_id: int, name: str) -> bytes:
        if is_cut and name == name_of(contents[3]):
            for _ in contents[:3]:
                assert came.acquire(timeout=60)
            raise ConnectionError
        content = side(name)
        came.release()
        return content

    message: Any = SimpleNamespace(metadata=SimpleNamespace(run_id=1, message_id="id"))
    confirmed: list[tuple[int, str]] = []
    never: Any = None
    received = ReceivedObjects(tmp_path, 10**9)
    link = Link(never, pull, lambda run, name: confirmed.append((run, name)), never, received)
    with pytest.raises(ConnectionError):
        link.contents(message, tree)
    assert confirmed == []
    assert set(side.asked) == {name_of(each) for each in contents[:3]}
    is_cut, side.asked = False, []
    assert link.contents(message, tree).objects == side.parts
    assert side.asked == [name_of(contents[3])]
    assert confirmed == [(1, "id")]
