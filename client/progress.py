"""How far a site is: the process that does the work writes it, and the node reads it to answer the coordinator.

WORK/progress.json, atomic. The node takes state and epoch from it and nothing else, for another account may write it.
WORK/unwanted is the node's word to that process: nobody waits for the round any more.
"""

import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from common.atomic import write_text_atomically
from common.private import private_folder, private_mode
from common.tasks import SiteProgress, SiteTask, TrainTask

FILE, UNWANTED = "progress.json", "unwanted"
LEAST_S = 1.0
"""Between two epochs that are told."""
MAX_BYTES = 4096


class Progress:
    """What the process at work says; without room on the disk it says nothing, and the work goes on."""

    def __init__(self, work: Path | None, task: SiteTask) -> None:
        """Says that cases are being prepared for `task`; nothing is ever said where `work` is None."""
        self._work = work
        self._began = time.monotonic()
        self._written = 0.0
        self._said = expected(task).model_copy(update={"state": "preparing"})
        self._write()

    def say(self, state: str, epoch: int | None = None) -> None:
        """Tells a state, and the epochs done in this round where they are known; an epoch at most once a second."""
        before = self._said
        told = {"state": state, "epoch": before.epoch if epoch is None else epoch}
        self._said = before.model_copy(update=told)
        if before.state != state or time.monotonic() - self._written >= LEAST_S:
            self._write()

    def seconds(self) -> float:
        """Since the task began."""
        return time.monotonic() - self._began

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._work is None:
            return
        said = self._said.model_copy(update={"seconds": round(self.seconds(), 1)})
        with suppress(OSError):
            folder = private_folder(self._work)
            write_text_atomically(folder / FILE, said.model_dump_json(), private_mode(folder))


def expected(task: SiteTask) -> SiteProgress:
    """Returns what can be said of a task whose process is not at work yet."""
    if not isinstance(task, TrainTask):
        return SiteProgress(state="queued")
    epochs = task.local_epochs * len(task.recipe.stages)
    return SiteProgress(state="queued", model=task.model, round=task.round, epochs=epochs)


def read_progress(work: Path) -> SiteProgress | None:
    """Returns what the process at work said last; None where it said nothing, or what stands there is none of ours.

    No link is followed and nothing is waited for, whatever is there in the file's place.
    """
    try:
        handle = os.open(work / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        data = os.read(handle, MAX_BYTES) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        return SiteProgress.model_validate(json.loads(data))
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
    finally:
        os.close(handle)


def forget_progress(work: Path) -> None:
    """Removes what an earlier task's process said, and what was said to it."""
    for name in (FILE, UNWANTED):
        with suppress(OSError):
            (work / name).unlink()


def leave_off(work: Path) -> None:
    """Tells the process at work that nobody waits for its round; without room on the disk it goes on."""
    with suppress(OSError):
        write_text_atomically(work / UNWANTED, "", private_mode(work))


def is_unwanted(work: Path) -> bool:
    """Whether nobody waits for the round any more."""
    return (work / UNWANTED).exists()


def progress_of(work: Path, task: SiteTask, seconds: float) -> SiteProgress:
    """Returns how far the process at work on `task` is: of what it says, state and epoch alone."""
    known, said = expected(task), read_progress(work)
    if said is None or said.state == "idle":
        return known.model_copy(update={"seconds": round(seconds, 1)})
    epoch = min(said.epoch, known.epochs)
    return known.model_copy(update={"state": said.state, "epoch": epoch, "seconds": round(seconds, 1)})
