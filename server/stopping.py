"""Stopping runs so that they can go on: nobody starts them again, Flower drops them, their ServerApps let go."""

import time
from pathlib import Path

from common.errors import ConfigError, WorkError
from common.file_lock import is_held
from server.control import Control
from server.run_lock import LOCK
from server.wanted import forget, last_attempt, wanted

SERVERAPP_ENDS_S = 60.0
POLL_S = 0.5


def stop_runs(control: Control, runs_folder: Path, name: str | None = None) -> list[str]:
    """Stops run `name`, or all that are wanted or under way, and returns their names once their ServerApps have ended.

    A run that is only wanted is stopped while the SuperLink is down, too.

    Raises:
        ConfigError: there is no run `name`.
        WorkError: the SuperLink is down and nothing was wanted, or a ServerApp does not end.
    """
    if name is not None and not (runs_folder / name).is_dir():
        known = ", ".join(path.name for path in sorted(runs_folder.glob("*/"))) or "none"
        raise ConfigError(f"run {name!r}: there is none of this name (runs: {known}); give one of these")
    folders = sorted(runs_folder.glob("*/")) if name is None else [runs_folder / name]
    stopped = [folder for folder in folders if wanted(folder) is not None or is_held(folder / LOCK)]
    flower_ids = {attempt.run_id for attempt in map(last_attempt, stopped) if attempt}
    for folder in stopped:
        forget(folder)
    if control.is_up() or not stopped:
        _stop_flower(control, None if name is None else flower_ids)
    _wait_until_ended(stopped)
    return [folder.name for folder in stopped]


def _stop_flower(control: Control, flower_ids: set[int | None] | None) -> None:
    """Stops these runs of Flower's, those that have not ended; None: all."""
    for run in control.runs().values():
        if not run.finished and (flower_ids is None or run.run_id in flower_ids):
            control.stop(run.run_id)


def _wait_until_ended(folders: list[Path]) -> None:
    deadline = time.monotonic() + SERVERAPP_ENDS_S
    while at_work := [folder.name for folder in folders if is_held(folder / LOCK)]:
        if time.monotonic() > deadline:
            raise WorkError(
                f"run {at_work[0]!r}: still at work {SERVERAPP_ENDS_S:.0f} s after it was stopped; stop "
                "`fedgtv-coordinator up` and start it again, which ends it; the run will not go on by itself"
            )
        time.sleep(POLL_S)
