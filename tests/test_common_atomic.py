"""Files that are whole or not there: content, mode, what an interruption leaves, and what is never overwritten."""

import os
import stat
import threading

import pytest

from common import atomic
from common.atomic import (
    OWNERS,
    create_atomically,
    put_in_place,
    replacing,
    write_bytes_atomically,
    write_text_atomically,
)

WRITERS = [write_bytes_atomically, create_atomically]


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """A function that sets the process's umask for the length of the test."""
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


def full_disk(*_):
    raise OSError("disk full")


@pytest.mark.parametrize("write", WRITERS)
def test_the_bytes_are_there_and_nothing_beside_them(tmp_path, write):
    write(tmp_path / "a.bin", b"\0\r\n\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\0\r\n\xff"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_older_file_is_replaced_by_text_in_utf_8(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "a long first text")
    write_text_atomically(path, "ä\n")
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("write", WRITERS)
def test_the_usual_mode_heeds_the_umask_and_a_secret_is_its_owners(tmp_path, umask, write):
    write(tmp_path / "usual", b"")
    umask(0o027)
    write(tmp_path / "shy", b"")
    umask(0)
    write(tmp_path / "secret", b"", OWNERS)
    assert [mode_of(tmp_path / name) for name in ("usual", "shy", "secret")] == [0o644, 0o640, 0o600]


def test_a_secret_is_never_open_to_others_not_even_while_it_is_written(tmp_path, umask):
    umask(0)
    (tmp_path / "key").write_bytes(b"old")
    (tmp_path / "key").chmod(0o644)
    with replacing(tmp_path / "key", OWNERS) as unfinished:
        assert mode_of(unfinished) == 0o600
    assert mode_of(tmp_path / "key") == 0o600


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace", "common.atomic._write"])
def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch, fails):
    path = tmp_path / "a"
    path.write_text("old")
    with monkeypatch.context() as broken:
        broken.setattr(fails, full_disk)
        with pytest.raises(OSError, match="disk full"):
            write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("fails", ["os.fsync", "os.link", "common.atomic._write"])
def test_an_interrupted_creation_leaves_nothing(tmp_path, monkeypatch, fails):
    with monkeypatch.context() as broken:
        broken.setattr(fails, full_disk)
        with pytest.raises(OSError, match="disk full"):
            create_atomically(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_in_place_of_the_unfinished_file_is_not_written_through(tmp_path, monkeypatch, write):
    """In a folder that another account may write, it can swap the file between its making and its filling."""
    (tmp_path / "theirs").write_text("untouched")
    filled = atomic._write

    def swap(handle, data):
        (unfinished,) = tmp_path.glob("*.part")
        unfinished.unlink()
        unfinished.symlink_to(tmp_path / "theirs")
        filled(handle, data)

    monkeypatch.setattr(atomic, "_write", swap)
    write(tmp_path / "ours", b"secret")
    assert (tmp_path / "theirs").read_text() == "untouched"


def test_ctrl_c_inside_the_block_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write_half():
        with replacing(path) as unfinished:
            unfinished.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_content_is_on_disk_before_the_name_and_the_folder_after_it(tmp_path, monkeypatch):
    path, seen, flush = tmp_path / "a", [], os.fsync

    def note(handle):
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_bytes_atomically(path, b"new")
    assert seen == [(False, False), (True, True)]


def test_a_file_that_a_library_made_anew_takes_the_name(tmp_path):
    with replacing(tmp_path / "a") as unfinished:
        unfinished.unlink()
        unfinished.write_text("made by another")
    assert (tmp_path / "a").read_text() == "made by another"
    (tmp_path / "whole").write_text("moved")
    put_in_place(tmp_path / "whole", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "moved"
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_there_is_never_overwritten_by_a_creation(tmp_path):
    path = tmp_path / "key"
    create_atomically(path, b"first", OWNERS)
    with pytest.raises(FileExistsError):
        create_atomically(path, b"second", OWNERS)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]


def test_of_many_creators_at_once_one_wins(tmp_path):
    start, won = threading.Barrier(8), []

    def create(number):
        start.wait()
        try:
            create_atomically(tmp_path / "key", bytes([number]))
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "key").read_bytes() == bytes(won)
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_missing_folder_is_an_error(tmp_path, write):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "no" / "a", b"")
