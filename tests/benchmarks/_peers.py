"""What the benchmarks share: a peer package or one line saying how to get it, and the least of a few times."""

import importlib
import sys
import time


def peer(module):
    """Returns a peer's module, or ends with one line that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        sys.exit(f"{module} is not installed; run make .venv-bench/installed and use .venv-bench/bin/python")


def best_of(repeats, function, *arguments):
    """Returns the least wall time in seconds of `repeats` calls, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result
