"""Folders under way: gone at the end, and after a kill; never another process's."""

import os
import signal
import subprocess
import sys

from client.unfinished import remove_unfinished, unfinished_folder

HOLD = """
import sys, time
from pathlib import Path
from client.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    (folder / "mask.nii.gz").touch()
    print("made", flush=True)
    sys.stdin.read()
"""


def test_a_folder_goes_with_what_is_in_it(tmp_path):
    with unfinished_folder(tmp_path) as folder:
        (folder / "mask.nii.gz").touch()
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_for_long_and_a_live_one_loses_nothing(tmp_path):
    place = tmp_path / "p1" / "CT"
    place.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "made\n"
        remove_unfinished(tmp_path)
        assert [path.name for path in place.rglob("mask.nii.gz")] == ["mask.nii.gz"]
        os.kill(holder.pid, signal.SIGKILL)
    assert len(list(place.iterdir())) == 1
    (place / ".segment-file").touch()
    remove_unfinished(tmp_path)
    assert [path.name for path in place.iterdir()] == [".segment-file"]
