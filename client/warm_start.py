"""ClientApps that find their libraries loaded: forked from a process that has imported them and nothing of ours.

Each task still has a process of its own, and the code that runs in it is the approved one, as the node unpacked it. To
import torch and the rest anew takes three CPU-seconds a task.
"""

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess

OURS = ("client", "common", "server")
LIBRARIES = (
    "flwr.supernode.cli.flwr_clientapp",
    "cv2",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "pydantic",
    "safetensors.numpy",
    "scipy.ndimage",
    "scipy.stats",
    "SimpleITK",
    "torch",
    "yaml",
)
"""What a ClientApp imports and is not ours; none of them starts threads or touches a GPU when it is imported."""
PR_SET_NAME = 15

_context = get_context("forkserver")
_context.set_forkserver_preload(list(LIBRARIES))


def start(command: Sequence[str], environment: Mapping[str, str]) -> ForkServerProcess:
    """Starts a ClientApp by Flower's command line, with more variables in its environment, and returns its process.

    Raises:
        OSError: the system starts no process.
    """
    process = _context.Process(target=_run, args=(list(command), dict(environment)), daemon=True)
    process.start()
    return process


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Flower's command, in the new process; our own modules are forgotten, so that the approved ones are imported."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    os.environ.update(environment)
    ctypes.CDLL(None).prctl(PR_SET_NAME, command[0].encode(), 0, 0, 0)
    for name in [each for each in sys.modules if each.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.argv = list(command)
    flwr_clientapp()
