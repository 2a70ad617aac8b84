"""A process that ends with the one that started it."""

import os
import select
import subprocess
import sys
from pathlib import Path

CHILD = (
    "from common.parent import end_with_parent; end_with_parent('of two letters and more'); print(flush=True); input()"
)
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
"""


def test_a_killed_parent_takes_the_process_along_which_has_a_name_of_its_own() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}/comm").read_text() == "of two letters \n"
        handle = os.pidfd_open(child)
        parent.kill()
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)
