"""What a round's end costs the coordinator, by the number of sites: constants of `deploy/scale.py`.

Replies of random numbers are put on disk as they are in a round, checked against each other and averaged, by processor
time. The model is small, for what is asked is the cost a number; the files are in the system's cache.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python tests/benchmarks/aggregation.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.layers import Layers
from common.tasks import TrainResult
from server.combine import combined, mean, products
from server.spool import Spool

SITES = (10, 30, 100, 300)
MILLION = 1_000_000
NUM_NUMBERS = 2 * MILLION
Made = TypeVar("Made")


def timed(work: Callable[[], Made]) -> tuple[Made, float]:
    """What `work` returns, and its processor seconds."""
    began = time.process_time()
    made = work()
    return made, time.process_time() - began


def main() -> None:
    """Prints milliseconds a site and million numbers."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    random = np.random.default_rng(1)
    sent = {"a": random.standard_normal(NUM_NUMBERS, np.float32)}
    result = TrainResult(model="m", round=1, num_examples=1, epochs=(), validation_dsc=None, seconds=1.0)
    print("| sites | put on disk, ms a site and million numbers | check | mean |\n|---:|---:|---:|---:|")
    for num_sites in SITES:
        with tempfile.TemporaryDirectory(prefix="aggregation-") as name:
            spool = Spool(Path(name), "key")
            put_s, updates = 0.0, []
            for number in range(num_sites):
                layers = Layers.of({"a": sent["a"] + random.standard_normal(NUM_NUMBERS, np.float32)})
                update, seconds = timed(partial(spool.put, f"S{number}", layers, result))
                updates.append(update)
                put_s += seconds
            _, check_s = timed(partial(products, updates, sent))
            _, mean_s = timed(partial(combined, updates, sent, mean))
        scale = 1e3 / (num_sites * NUM_NUMBERS / MILLION)
        print(f"| {num_sites} | {put_s * scale:.2f} | {check_s * scale:.2f} | {mean_s * scale:.2f} |", flush=True)


if __name__ == "__main__":
    main()
