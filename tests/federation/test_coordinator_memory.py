"""The coordinator's memory: the same in the last round as in the tenth, and whatever the number of sites."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).parent / "memory_run.py"
ROOT = Path(__file__).parents[2]
PYTHONPATH = f"{ROOT}:{ROOT / 'tests'}"


def measured(folder, num_sites, num_rounds, megabytes):
    """What a run without training, all in one process of its own, tells of its memory."""
    arguments = [str(num_sites), str(num_rounds), str(megabytes), str(folder)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=ROOT, env={"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_two_hundred_rounds_of_50_mb_grow_by_nothing_after_the_tenth(tmp_path):
    told = measured(tmp_path, 3, 200, 50)
    after = np.array(told["resident_mb"][10:])
    slope_mb = float(np.polyfit(np.arange(len(after)), after, 1)[0])
    print(f"{told['model_mb']:.1f} MB: {slope_mb * 1000:.1f} kB a round; {after[0]:.1f} MB, then {after[-1]:.1f} MB")
    assert len(after) == 190
    assert abs(slope_mb) < 0.02
    assert after.max() - after.min() < 10


def test_fifty_sites_need_no_more_memory_than_three(tmp_path):
    peaks = {num: measured(tmp_path / str(num), num, 2, 100)["peak_mb"] for num in (3, 50)}
    print(peaks)
    assert peaks[50] < 1.1 * peaks[3]
