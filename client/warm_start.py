"""ClientApps that find their libraries loaded: forked from a process that has imported them, and this release.

Each task still has a process of its own, and the code that runs in it is the approved one: what the node sent, or,
where that is this release's own to the byte, the release that is installed (`client.loaded_release`). Importing torch
and the rest anew takes more than three seconds of a processor for each task.

The process that is forked is Python's own fork server. It never sees a task, weights or a case: it imports `LIBRARIES`
and the release, then answers each request with a new process, which alone reads what to do. When it forks it has a
single thread, since others would be missing in the fork and their locks held for good, and no GPU open, since a fork
cannot use what was initialised before it. The OpenBLAS of NumPy, SciPy and OpenCV starts threads when it is imported
and ends them for a fork; gRPC, which Flower imports, and OpenMP start theirs when they are first called. A new process
looks whether all of that is so, and if a version of some library has changed it, loads the libraries itself.
"""

import atexit
import gc
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess, current_process
from pathlib import Path
from types import ModuleType

from client import loaded_release
from client.loaded_release import InstalledRelease
from common.logs import log_to_output
from common.parent import end_with_parent

log = logging.getLogger("fedgtv.site")
LIBRARIES = (
    "flwr.supernode.cli.flwr_clientapp",
    "contourpy",
    "cv2",
    "httpcore",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.patheffects",
    "pydantic.dataclasses",
    "pydicom",
    "safetensors.numpy",
    "scipy.ndimage",
    "scipy.stats",
    "SimpleITK",
    "torch._dynamo",
    "yaml",
)
"""What a ClientApp imports and is not ours; torch's optimisers import `torch._dynamo`, a second of work by itself."""
GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
"""Files that a process has open once it has initialised a GPU."""

_warm, _cold = ForkServerContext(), SpawnContext()
_warm.set_forkserver_preload([*LIBRARIES, loaded_release.APP])


def prepare() -> None:
    """Has libraries and release loaded for the first ClientApp, without waiting for it."""
    with suppress(OSError):  # `start` tries again
        forkserver.ensure_running()


def start(
    command: Sequence[str], environment: Mapping[str, str], release: InstalledRelease | None = None
) -> BaseProcess:
    """Starts a ClientApp by Flower's command line, with more variables in its environment, and returns its process.

    Whatever ended the process that is forked, another one takes its place.

    Args:
        command: Flower's.
        environment: what is added to this process's own.
        release: what is installed; a task that brings the same code need not unpack it. None: every task does.

    Raises:
        OSError: the system starts no process.
    """
    try:
        return _started(_warm, command, environment, release)
    except (OSError, EOFError) as error:  # killed just now, or the path of its socket in TMPDIR is too long
        log.warning("no process can be forked (%s); this one loads its libraries itself", error)
        return _started(_cold, command, environment, None)


def _started(
    context: ForkServerContext | SpawnContext,
    command: Sequence[str],
    environment: Mapping[str, str],
    release: InstalledRelease | None,
) -> BaseProcess:
    arguments = (list(command), dict(environment), context is _warm, release)
    process: BaseProcess = context.Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process


def _run(
    command: Sequence[str], environment: Mapping[str, str], forked: bool, release: InstalledRelease | None
) -> None:
    """Flower's command, in the new process; it ends with the one that started it, whose end is taken for its own."""
    os.environ.update(environment)
    end_with_parent(command[0])
    if forked and (why := _unfit(os.getppid())):
        log_to_output()
        log.warning("%s where ClientApps are forked; this one loads its libraries itself", why)
        os.execvp(command[0], list(command))
    gc.freeze()  # what is shared is neither searched for cycles nor copied for that: 0.9 s and 60 MB a task
    _begin_anew()
    if release is not None and loaded_release.APP in sys.modules:
        _offer(release)
    else:
        loaded_release.forget()
    sys.argv = list(command)
    _call_flower()


def _unfit(parent_id: int) -> str | None:
    """Why a process that was forked from `parent_id` may hang or fail; None if it is fit."""
    if (num_threads := len(os.listdir(f"/proc/{parent_id}/task"))) > 1:
        return f"{num_threads} threads"
    opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]  # all that the parent had, too
    return next((each for each in opened if each.startswith(GPUS)), None)


def _begin_anew() -> None:
    """Leaves nothing of the process that was forked which a new interpreter would not have.

    NumPy's global generator would draw the same numbers in every task; Python's own and torch's see to that themselves.
    """
    import numpy

    sys.modules.pop("__mp_main__", None)
    sys.modules["__main__"] = ModuleType("__main__")
    multiprocessing.set_start_method(None, force=True)
    current_process().daemon = False  # may have children
    numpy.random.seed()


def _offer(release: InstalledRelease) -> None:
    from flwr.supernode.runtime import run_clientapp

    from client.task_input import GIVE, TAKE, hand_over, take_in

    vars(run_clientapp)[TAKE] = take_in
    vars(run_clientapp)[GIVE] = hand_over
    loaded_release.offer(release, run_clientapp)


def _call_flower() -> None:
    """A forked process ends without what is registered for an interpreter's end, so that is called here."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    try:
        flwr_clientapp()
    finally:
        atexit._run_exitfuncs()
