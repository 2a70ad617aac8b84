import os
import signal
import socket
import sys
import time

import pytest

from common.errors import WorkError
from common.processes import MARK, STARTS, ProcessTree, flower_environment, free_port

CHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {grandchild!r}], start_new_session=True)
time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def start(tree, grandchild="import time; time.sleep(60)"):
    tree.start([sys.executable, "-c", CHILD.format(grandchild=grandchild)], os.environ)
    deadline = time.monotonic() + 10
    while len(tree.members()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(tree.members()) == 2


def test_stop_ends_a_grandchild_in_a_session_of_its_own(tmp_path):
    tree = ProcessTree("probe", tmp_path)
    start(tree)
    assert tree.running
    assert tree.stop() == -signal.SIGTERM
    assert tree.members() == []
    assert not tree.running


def test_a_grandchild_that_ignores_the_request_is_killed(tmp_path, monkeypatch):
    tree = ProcessTree("probe", tmp_path)
    start(tree, STUBBORN)
    monkeypatch.setattr(ProcessTree._end_members, "__defaults__", (0.3,))
    tree.stop()
    assert tree.members() == []


def test_another_folder_that_has_the_same_path_elsewhere_is_not_touched(tmp_path):
    """As in two containers that see each other's processes."""
    first, second = ProcessTree("probe", tmp_path / "site"), ProcessTree("probe", tmp_path / "site")
    start(first)
    (tmp_path / "site").rename(tmp_path / "other")
    start(second)
    second.stop()
    assert first.running
    (tmp_path / "site").rename(tmp_path / "gone")
    (tmp_path / "other").rename(tmp_path / "site")
    assert len(first.members()) == 2
    first.stop()


def test_who_was_refused_ends_nothing(tmp_path):
    first, second = ProcessTree("probe", tmp_path), ProcessTree("probe", tmp_path)
    start(first)
    for refused in (second.claim, lambda: second.start([sys.executable, "-V"], os.environ)):
        with pytest.raises(WorkError, match="probe runs here already"):
            refused()
    assert second.stop() is None
    assert len(first.members()) == 2
    first.stop()


def test_looking_at_an_owner_takes_nothing(tmp_path):
    tree = ProcessTree("probe", tmp_path)
    assert not tree.owned()
    start(tree)
    assert ProcessTree("probe", tmp_path).owned()
    tree.stop()
    assert not ProcessTree("probe", tmp_path).owned()


def test_what_a_dead_first_process_left_is_ended_by_the_next_start(tmp_path):
    tree = ProcessTree("probe", tmp_path)
    start(tree)
    os.kill(tree.process.pid, signal.SIGKILL)
    tree.process.wait()
    (orphan,) = tree.members()
    start(tree)
    assert orphan not in tree.members()
    tree.stop()


def test_one_owner_a_folder_and_strangers_are_left_alone(tmp_path):
    first, other = ProcessTree("probe", tmp_path / "a"), ProcessTree("probe", tmp_path / "b")
    start(first)
    start(other)
    with pytest.raises(WorkError, match="runs here already"):
        ProcessTree("probe", tmp_path / "a").start(["true"], os.environ)
    first.stop()
    assert len(other.members()) == 2
    other.stop()
    start(first)
    first.stop()


def test_output_goes_to_the_log_and_restarts_append(tmp_path):
    tree = ProcessTree("probe", tmp_path)
    for word in ("one", "two"):
        before = tree.log_size()
        tree.start([sys.executable, "-c", f"print({word!r})"], os.environ)
        tree.process.wait()
        assert tree.tail(before) == f"{STARTS}\n{word}\n"
    assert tree.tail() == f"{STARTS}\none\n{STARTS}\ntwo\n"
    assert tree.stop() == 0


def test_a_command_that_is_not_there_is_one_line(tmp_path):
    tree = ProcessTree("probe", tmp_path)
    with pytest.raises(WorkError, match="cannot be started"):
        tree.start([str(tmp_path / "absent")], os.environ)
    assert tree.stop() is None


def test_flower_gets_its_own_home_no_lookups_and_no_proxy_for_loopback(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet")
    environment = flower_environment(tmp_path, {"A": "b"})
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert (environment["FLWR_TELEMETRY_ENABLED"], environment["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert environment["NO_PROXY"] == environment["no_proxy"] == "localhost,127.0.0.1,intranet"
    assert environment["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
    assert environment["A"] == "b"
    assert MARK not in environment


def test_a_free_port_can_be_listened_on():
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0
