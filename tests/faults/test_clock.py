"""The clock that can be set: a process sees it jump, and waits as long as before."""

import os
import subprocess
import sys
import time

import pytest
from faults.clock import Clock

PROGRAM = """\
import datetime, sys, time
for line in sys.stdin:
    before = time.monotonic()
    time.sleep(0.01)
    waited = time.monotonic() - before
    print(time.time(), datetime.datetime.now().timestamp(), int(0.01 <= waited < 5.0), flush=True)
"""


def test_a_process_sees_the_time_of_day_jump_and_waits_as_before(tmp_path):
    clock = Clock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | clock.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for ahead_s in (0, 3600, -3600, 0):
            clock.set(ahead_s)
            process.stdin.write("now\n")
            process.stdin.flush()
            one, other, waited = map(float, process.stdout.readline().split())
            assert [one, other] == pytest.approx([time.time() + ahead_s] * 2, abs=5.0)
            assert waited
        process.stdin.close()
