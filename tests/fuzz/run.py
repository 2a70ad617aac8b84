"""Fuzzes the readers for a number of minutes: `make fuzz`. A finding is saved and told, and the exit code is 1.

A seed and a number name an input for good; a crash of the process itself leaves it as `input.dcm` or `input.nii`.
"""

import argparse
import collections
import faulthandler
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from fuzz.targets import make_targets, try_one

SLOW_S = 60.0
"""GDCM can take 8 s to give up on a slice of 2 kB; longer than this is a finding."""
SHARES = (0, 0, 0, 1, 1, 2)
"""Targets by turns: half of the inputs are RTSTRUCTs."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    faulthandler.enable()
    sys.exit(1 if fuzz(options.out, options.seed, 60 * options.minutes) else 0)


def fuzz(out, seed, seconds):
    """Runs until the time is over; returns the number of different findings."""
    targets = make_targets(out)
    counts, found = collections.Counter(), {}
    started, number = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        target = targets[SHARES[number % len(SHARES)]]
        began = time.monotonic()
        try:
            read = try_one(target, np.random.default_rng([seed, number]), out)
            counts[target.name, "read" if read else "refused"] += 1
            if time.monotonic() - began > SLOW_S:
                raise TimeoutError(f"took {time.monotonic() - began:.0f} s")
        except Exception as error:
            note(out, found, target, f"{target.name}, seed {seed}, number {number}", error)
        number += 1
    print(f"{number} inputs in {time.monotonic() - started:.0f} s, {len(found)} different findings")
    for (name, fate), count in sorted(counts.items()):
        print(f"{name}: {count} {fate}")
    return len(found)


def note(out, found, target, what, error):
    """Keeps the first input of every kind of finding: by exception and the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
    if kind not in found:
        found[kind] = what
        (out / f"finding-{len(found)}-{target.file_name}").write_bytes((out / target.file_name).read_bytes())
        print(f"{kind} ({what})", *traceback.format_exception(error), sep="\n", flush=True)


if __name__ == "__main__":
    main()
