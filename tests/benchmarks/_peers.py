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
    """Returns the least time in seconds of `repeats` calls, and the last result.

    It is the processor's, of all threads together: with one thread and nothing else to do it is the wall's, and what
    else runs on the machine lengthens it little.
    """
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds), result
