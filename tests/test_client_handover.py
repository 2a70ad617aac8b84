"""The folder in which node and process at work hand parts of models over; whoever else writes there does no harm."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.handover import LEAST_BYTES, NAME, VARIABLE, Handover, handed_over
from common.errors import WorkError
from common.objects import LARGEST_CHUNK, Chunk, RemoteChunk

GROUP, NODE, WORKER = 64100, 64101, 64102


def chunk(letter: bytes = b"a", size: int = LEAST_BYTES) -> Chunk:
    return Chunk.of([memoryview(letter * size)])


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


@pytest.fixture
def node(tmp_path: Path) -> Handover:
    return Handover.of(tmp_path)


@pytest.fixture
def worker(node: Handover, monkeypatch: pytest.MonkeyPatch) -> Handover:
    monkeypatch.setenv(VARIABLE, str(node.folder))
    found = Handover.at_work()
    assert found is not None
    return found


def test_what_one_side_puts_there_the_other_finds(node: Handover, worker: Handover) -> None:
    for one, other in ((node, worker), (worker, node)):
        put = one.put(chunk())
        found = other.find(chunk().object_id)
        assert isinstance(put, RemoteChunk)
        assert isinstance(found, RemoteChunk)
        for each in (put, found):
            assert (each.object_id, each.deflate()) == (chunk().object_id, chunk().deflate())
            assert (bytes(each.data), each.size, each.num_bytes) == (
                bytes(chunk().data), chunk().size, len(chunk().deflate())
            )  # fmt: skip
        assert names(node.folder) == {chunk().object_id}
        node.keep_only(())
        assert other.find(chunk().object_id) is None


@given(st.integers(LEAST_BYTES, LEAST_BYTES + 200) | st.integers(99_900, 100_100) | st.integers(999_970, 1_000_030))
def test_the_length_of_a_part_tells_what_is_in_it(size: int) -> None:
    whole = chunk(size=size)
    remote = RemoteChunk(whole.object_id, len(whole.deflate()), lambda _: whole.deflate())
    assert (remote.size, remote.num_bytes) == (size, len(whole.deflate()))
    assert bytes(remote.data) == bytes(whole.data)


def test_a_length_that_no_part_has_is_refused() -> None:
    lengths = {len(b"ArrayChunk  %d\0" % size) + size for size in range(2000)}
    for num_bytes in set(range(max(lengths))) - lengths:
        with pytest.raises(ValueError, match="expected a chunk"):
            RemoteChunk("0" * 64, num_bytes, bytes)


def test_the_folder_and_its_files_are_their_owner_s(node: Handover) -> None:
    node.put(chunk())
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((node.folder / chunk().object_id).stat().st_mode) == 0o600


def test_a_worker_s_group_may_read_what_the_node_put_there_and_not_change_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    node = Handover.of(tmp_path)
    node.put(chunk())
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o2770
    assert stat.S_IMODE((node.folder / chunk().object_id).stat().st_mode) == 0o640


def succeeds(account: int, work: Callable[[], bool]) -> bool:
    """Whether `work`, done by another account in a process of its own, returns true."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(account)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def shared() -> Iterator[Path]:
    """The work folder of a site whose node is one account, and its worker another of the same group."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two other accounts")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        work = Path(folder) / "work"
        work.mkdir()
        os.chown(work, NODE, GROUP)
        work.chmod(0o2770)
        yield work


def test_two_accounts_hand_parts_over_and_neither_changes_the_other_s(shared: Path) -> None:
    sent, made = chunk(b"a"), chunk(b"b")

    def read(handover: Handover, part: Chunk) -> bool:
        found = handover.find(part.object_id)
        return found is not None and found.deflate() == part.deflate()

    def change(part: Chunk) -> bool:
        (shared / NAME / part.object_id).write_bytes(b"other")
        return True

    def empty() -> bool:
        Handover.of(shared).keep_only(())
        return names(shared / NAME) == set()

    worker_s = Handover(shared / NAME, trusts=True)
    assert succeeds(NODE, lambda: bool(Handover.of(shared).put(sent)))
    assert succeeds(WORKER, lambda: read(worker_s, sent) and bool(worker_s.put(made)))
    assert succeeds(NODE, lambda: read(Handover.of(shared), made))
    assert not succeeds(WORKER, lambda: change(sent))
    assert not succeeds(NODE, lambda: change(made))
    assert succeeds(NODE, empty)


def test_bytes_that_were_changed_are_no_longer_the_part(node: Handover, worker: Handover) -> None:
    put = node.put(chunk(b"a"))
    (node.folder / put.object_id).write_bytes(chunk(b"b").deflate())
    with pytest.raises(WorkError, match="is not what its name says"):
        put.deflate()
    with pytest.raises(WorkError):
        _ = put.data


def test_a_part_that_is_gone_is_told(node: Handover) -> None:
    put = node.put(chunk())
    node.keep_only(())
    with pytest.raises(WorkError, match="cannot be read"):
        put.deflate()


@pytest.mark.parametrize(
    "content",
    [b"x" * LEAST_BYTES, b"ArrayChunk aa %d\0" % LEAST_BYTES + b"x" * LEAST_BYTES,
     b"ArrayChunk  %d\0" % (LEAST_BYTES + 1) + b"x" * LEAST_BYTES],
    ids=["no chunk", "a chunk with children", "a chunk of another length"],
)  # fmt: skip
def test_what_is_no_chunk_has_no_numbers(node: Handover, content: bytes) -> None:
    name = hashlib.sha256(content).hexdigest()
    (node.folder / name).write_bytes(content)
    found = node.find(name)
    assert found is not None
    with pytest.raises(ValueError, match="expected a chunk"):
        _ = found.data


def link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(chunk().deflate())
    path.symlink_to(path.with_name("elsewhere"))


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_CHUNK + 1)


@pytest.mark.parametrize(
    "make", [link, os.mkfifo, Path.mkdir, large, lambda path: path.write_bytes(b"small")],
    ids=["a link", "a pipe", "a folder", "too large", "too small"],
)  # fmt: skip
def test_nothing_else_is_taken_for_a_part(node: Handover, make: Any) -> None:
    make(node.folder / chunk().object_id)
    assert node.find(chunk().object_id) is None
    with pytest.raises(WorkError):
        node.read(chunk().object_id)


@pytest.mark.parametrize("name", ["../../site.yaml", "", "A" * 64, "0" * 63, f"{'0' * 64}/../x"])
def test_a_name_that_is_no_id_leads_nowhere(node: Handover, name: str) -> None:
    assert node.find(name) is None


def test_a_folder_that_was_put_in_its_place_by_a_link_is_not_followed(node: Handover, tmp_path: Path) -> None:
    """Else the training code could have the node write and remove files anywhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    node.folder.rmdir()
    node.folder.symlink_to(elsewhere)
    again = Handover.of(tmp_path)
    made = chunk()
    assert again.put(made) is made
    again.keep_only(())
    assert again.find(chunk().object_id) is None
    assert names(elsewhere) == {"kept"}


def test_of_what_is_left_there_the_parts_in_use_alone_stay(node: Handover) -> None:
    used = node.put(chunk(b"a"))
    node.put(chunk(b"b"))
    (node.folder / f".{used.object_id}.0123").write_bytes(b"of a writer that was killed")
    (node.folder / "folder").mkdir()
    node.keep_only({used.object_id})
    assert names(node.folder) == {used.object_id, "folder"}


def test_a_full_disk_leaves_nothing_behind_and_the_part_where_it_was(
    node: Handover, worker: Handover, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    made = chunk()
    assert node.put(made) is made
    assert handed_over(made) is made
    assert names(node.folder) == set()
    assert caplog.text.count("a part of a model goes by a call (No space left on device)") == 2


def test_what_is_small_or_too_large_or_has_no_handover_goes_by_calls(
    worker: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = chunk()
    for other in (chunk(size=LEAST_BYTES - 100), chunk(size=LARGEST_CHUNK)):
        assert handed_over(other) is other
    there = handed_over(made)
    assert isinstance(there, RemoteChunk)
    assert handed_over(there) is there
    monkeypatch.delenv(VARIABLE)
    assert Handover.at_work() is None
    assert handed_over(made) is made
    assert worker.folder.name == NAME
