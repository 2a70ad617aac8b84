"""Resident memory of processes, against what this process is known to hold."""

import os
import subprocess
import sys
import time

from deploy.memory import PeakMemory, resident_bytes

MIB = 2**20


def test_this_process_holds_something_and_a_gone_one_nothing():
    assert resident_bytes(os.getpid()) > 10 * MIB
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert resident_bytes(gone.pid) == 0


def test_memory_that_is_touched_counts():
    before = resident_bytes(os.getpid())
    block = bytearray(b"\1") * (64 * MIB)
    grown = resident_bytes(os.getpid()) - before
    assert len(block) == 64 * MIB
    assert 56 * MIB < grown < 80 * MIB


def test_peak_stays_after_the_memory_is_gone():
    with PeakMemory(list, every_s=0.005) as memory:
        low = resident_bytes(os.getpid())
        block = bytearray(b"\1") * (64 * MIB)
        deadline = time.monotonic() + 5
        while memory.peak_bytes < low + 48 * MIB and time.monotonic() < deadline:
            time.sleep(0.005)
        del block
    assert memory.peak_bytes >= low + 48 * MIB


def test_other_processes_are_asked_anew_and_added():
    asked = []

    def members():
        asked.append(1)
        return [os.getppid()] if len(asked) > 1 else []

    alone = resident_bytes(os.getpid())
    with PeakMemory(members, every_s=0.005) as memory:
        deadline = time.monotonic() + 5
        while len(asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert len(asked) >= 5
    assert memory.peak_bytes >= alone


def test_a_process_named_twice_counts_once():
    with PeakMemory(lambda: [os.getpid()] * 3, every_s=10) as memory:
        deadline = time.monotonic() + 5
        while not memory.peak_bytes and time.monotonic() < deadline:
            time.sleep(0.005)
    assert 0 < memory.peak_bytes < 2 * resident_bytes(os.getpid())
