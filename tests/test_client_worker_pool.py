"""Processes that share work: they end with the one that started them, and their end is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.worker_pool import worker_pool
from common.errors import WorkError

KILLED = """
import os, signal, threading
from client.worker_pool import worker_pool

if __name__ == "__main__":
    with worker_pool(2, "ended") as pool:
        pool.submit(os.getpid).result()  # both processes live, or are about to
        pool.submit(threading.Event().wait)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_command_leaves_no_process(tmp_path):
    """What it started holds its output open; the call returns only when nothing does any more."""
    (tmp_path / "script.py").write_text(KILLED)
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, check=False, env=environment, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL


def test_the_end_of_a_process_is_told():
    def run():
        with worker_pool(1, "one was ended") as pool:
            pool.submit(os._exit, 9).result()

    with pytest.raises(WorkError, match="one was ended"):
        run()


def test_a_process_sees_no_interrupt_and_begins_as_told():
    with worker_pool(1, "ended", begin) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGINT)
        assert pool.submit(os.getenv, "BEGUN").result() == "yes"
        assert pid != os.getpid()


def begin():
    os.environ["BEGUN"] = "yes"
