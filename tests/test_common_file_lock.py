"""Locks on files: one holder, seen from outside, let go with the process that holds."""

import signal
import subprocess
import sys

import pytest

from common.file_lock import is_held, take


def test_one_takes_it_the_other_sees_it_and_may_when_it_is_let_go(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    with path.open("a") as first, path.open("a") as second:
        assert take(first)
        assert is_held(path)
        assert not take(second)
        first.close()
        assert not is_held(path)
        assert take(second)


def test_a_killed_holder_holds_no_longer(tmp_path):
    path = tmp_path / "lock"
    code = f"import fcntl; file = open({str(path)!r}, 'a'); fcntl.flock(file, 2); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_held(path)


def test_no_link_is_followed(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        is_held(tmp_path / "lock")
