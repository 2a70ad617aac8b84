"""Processor time of a task's process until it has loaded the ClientApp as unpacked for it: started anew, and forked.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/starting.py [--tasks 3]
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from client import loaded_release, warm_start

ROOT = Path(__file__).parents[2]
UNPACKED = "UNPACKED"
"""Environment variable with the folder of the task's code."""
LOAD = f"import os, sys; sys.path.insert(0, os.environ['{UNPACKED}']); import client.app"


def load():
    """In the place of Flower's command, in the forked process: what the process that is started anew does."""
    exec(LOAD)


warm_start._call_flower = load  # here, as the forked process imports this file too


def unpack(folder):
    """Copies the code without what Python has compiled of it."""
    for room in loaded_release.OURS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def anew(folder):
    """Starts a process and returns its processor time in s."""
    command = [sys.executable, "-P", "-c", f"import {warm_start.LIBRARIES[0]}; {LOAD}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=os.environ | {UNPACKED: str(folder)}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def forked(folder):
    """Forks a process; returns the processor time in s of what it was forked from, of it and of its like so far."""
    process = warm_start.start(["flwr-clientapp"], {UNPACKED: str(folder)})
    process.join()
    assert process.exitcode == 0
    told = Path(f"/proc/{warm_start.forkserver._forkserver._forkserver_pid}/stat").read_text().rpartition(")")[2]
    return sum(map(int, told.split()[11:15])) / os.sysconf("SC_CLK_TCK")


def main():
    """Prints a line for each task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder, used = unpack(Path(name)), 0.0
        for task in range(arguments.tasks + 1):
            start, before = time.perf_counter(), used
            used = forked(folder)
            what = "forked" if task else "libraries loaded, and forked"
            print(f"{what}: {used - before:.2f} s of processor time, {time.perf_counter() - start:.2f} s", flush=True)
        for _ in range(arguments.tasks):
            start = time.perf_counter()
            print(f"anew: {anew(folder):.2f} s of processor time, {time.perf_counter() - start:.2f} s", flush=True)


if __name__ == "__main__":
    main()
