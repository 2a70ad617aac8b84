"""Memory of processes together, against what this process is known to hold."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from deploy.memory import PeakMemory, descendants, proportional_bytes

MIB = 2**20


def test_this_process_holds_something_and_a_gone_one_nothing():
    assert proportional_bytes(os.getpid()) > 10 * MIB
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert proportional_bytes(gone.pid) == 0


def test_memory_that_is_touched_counts():
    before = proportional_bytes(os.getpid())
    block = bytearray(b"\1") * (64 * MIB)
    grown = proportional_bytes(os.getpid()) - before
    assert len(block) == 64 * MIB
    assert 56 * MIB < grown < 80 * MIB


FORK = """
import os
from deploy.memory import proportional_bytes
block = bytearray(b"x") * (96 * 2**20)
before = proportional_bytes(os.getpid())
read, write = os.pipe()
if not (fork := os.fork()):
    os.close(write)
    os.read(read, 1)  # until the other end is closed
    os._exit(0)
print(before, proportional_bytes(os.getpid()), proportional_bytes(fork))
"""
"""Holds 96 MiB that its fork shares."""


def test_memory_that_a_fork_shares_counts_once():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    before, *shared = map(int, done.stdout.split())
    assert all(48 * MIB < each < 72 * MIB for each in shared)
    assert abs(sum(shared) - before) < 24 * MIB


def test_peak_stays_after_the_memory_is_gone():
    with PeakMemory(list, every_s=0.005) as memory:
        low = proportional_bytes(os.getpid())
        block = bytearray(b"\1") * (64 * MIB)
        deadline = time.monotonic() + 5
        while memory.peak_bytes < low + 48 * MIB and time.monotonic() < deadline:
            time.sleep(0.005)
        del block
    assert memory.peak_bytes >= low + 48 * MIB


HOLD = "import sys; block = bytearray(b'x') * (96 * 2**20); print('held', flush=True); sys.stdin.read()"
"""Touches 96 MiB and keeps them until its input ends."""
START = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@contextlib.contextmanager
def started(code):
    """A process that has said that it holds its memory, or its child's."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def sampled(members):
    """The peak over a few samples, and what this process held."""
    asked = []
    with PeakMemory(lambda: asked.append(1) or members(len(asked)), every_s=0.005) as memory:
        deadline = time.monotonic() + 20
        while len(asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert len(asked) >= 5
    return memory.peak_bytes - proportional_bytes(os.getpid())


@pytest.mark.parametrize("code", [HOLD, START], ids=["child", "grandchild"])
def test_the_memory_of_descendants_is_added(code):
    with started(code) as process:
        tree = descendants(os.getpid())
        assert process.pid in tree
        assert descendants(process.pid) < tree
        added = sampled(lambda _: [])
    assert 96 * MIB < added < 96 * MIB + 200 * MIB
    assert process.pid not in descendants(os.getpid())


def test_others_are_asked_for_anew_and_added(monkeypatch):
    """Such as a process whose parent has died: here it has none that is known."""
    monkeypatch.setattr("deploy.memory.descendants", lambda process_id: set())
    with started(HOLD) as process:
        assert sampled(lambda times: []) < 48 * MIB
        assert sampled(lambda times: [process.pid] if times > 2 else []) > 96 * MIB


def test_a_process_named_twice_counts_once():
    with PeakMemory(lambda: [os.getpid()] * 3, every_s=10) as memory:
        deadline = time.monotonic() + 5
        while not memory.peak_bytes and time.monotonic() < deadline:
            time.sleep(0.005)
    assert 0 < memory.peak_bytes < 2 * proportional_bytes(os.getpid())
