"""Which runs are wanted, which start of a run may work, and who watches it: files in the run's folder.

`wanted.json` is there from `run` until the run ends, fails or is stopped; a run outlives the terminal by it.
`attempt.json` names the one start that may work: a ServerApp that Flower starts late, or twice, finds another name
there and leaves. Who watches a run holds the lock `watched`. Who wants to take over holds `watched.next` until it has
that, and whoever watches lets go for it.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from common.atomic import write_text_atomically
from common.errors import WorkError
from common.file_lock import is_held
from common.settings import Frozen, Model
from server.run_lock import HeldError, hold

WANTED = "wanted.json"
ATTEMPT = "attempt.json"
WATCHED = "watched"
NEXT = "watched.next"
WATCHER_LETS_GO_S = 150.0
"""Who watched lets go within a second or two, unless it waits for one of Flower's commands (120 s at most)."""


class Wanted(Frozen):
    """A run that is to go on until it ends."""

    since: str
    coordinator: str | None = None
    """Its address, for the models' cards."""


class Attempt(Frozen):
    """One start of a run."""

    token: str
    run_id: int | None = None
    """Flower's; written by the ServerApp, once it holds the run's lock."""


class TakenOverError(WorkError):
    """Another process watches the run now."""


class StoppedError(WorkError):
    """The run is no longer wanted."""


def want(run_folder: Path, coordinator: str | None) -> None:
    """Writes that the run is wanted."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    write_text_atomically(run_folder / WANTED, Wanted(since=since, coordinator=coordinator).model_dump_json())


def wanted(run_folder: Path) -> Wanted | None:
    """Returns since when, and by whom, the run is wanted; None where it is not."""
    return _read(run_folder / WANTED, Wanted)


def forget(run_folder: Path) -> None:
    """The run is wanted no more: none of its starts that are still to come will work."""
    for name in (WANTED, ATTEMPT):
        (run_folder / name).unlink(missing_ok=True)


def new_attempt(run_folder: Path) -> str:
    """Returns the token of a new start of a wanted run, the only one that may work from now on.

    The caller holds the run's lock.

    Raises:
        StoppedError: the run is not wanted.
    """
    check_wanted(run_folder)
    attempt = Attempt(token=secrets.token_hex(8))
    write_text_atomically(run_folder / ATTEMPT, attempt.model_dump_json())
    return attempt.token


def last_attempt(run_folder: Path) -> Attempt | None:
    """Returns the start that may work, or None."""
    return _read(run_folder / ATTEMPT, Attempt)


def admit(run_folder: Path, token: str | None, run_id: int) -> None:
    """Notes, for a ServerApp that holds the run's lock, that it is there; without a token nothing is asked.

    Raises:
        StoppedError: the run is not wanted, or another start of it has taken this one's place.
    """
    if token is None:
        return
    attempt = last_attempt(run_folder)
    if wanted(run_folder) is None or attempt is None or attempt.token != token:
        raise StoppedError(f"run {run_folder.name!r}: stopped, or started again, before this start of it was up")
    write_text_atomically(run_folder / ATTEMPT, Attempt(token=token, run_id=run_id).model_dump_json())


def check_wanted(run_folder: Path) -> Wanted:
    """Returns since when, and by whom, the run is wanted (StoppedError: it is not)."""
    found = wanted(run_folder)
    if found is None:
        raise StoppedError("the run was stopped; the same command goes on after its last round")
    return found


@contextmanager
def watching(run_folder: Path, take_over: bool = True) -> Iterator[Callable[[], None]]:
    """Watches the run while the block lasts; yields what raises TakenOverError as soon as another takes over.

    Args:
        run_folder: the run's.
        take_over: from whoever watches it now; False: only where nobody does.

    Raises:
        TakenOverError: another watches, and nothing is to be taken over.
        WorkError: who watches does not let go.
    """
    with ExitStack() as stack:
        try:
            with ExitStack() as claim:
                if take_over:
                    claim.enter_context(hold(run_folder / NEXT, WATCHER_LETS_GO_S))
                stack.enter_context(hold(run_folder / WATCHED, WATCHER_LETS_GO_S if take_over else 0.0))
        except HeldError as error:
            raise _not_let_go(run_folder) if take_over else _taken_over(run_folder) from error
        yield lambda: _let_go(run_folder)


def _let_go(run_folder: Path) -> None:
    if is_held(run_folder / NEXT):
        raise _taken_over(run_folder)


def _taken_over(run_folder: Path) -> TakenOverError:
    return TakenOverError(f"run {run_folder.name!r} is watched from elsewhere now; it goes on")


def _not_let_go(run_folder: Path) -> WorkError:
    return WorkError(
        f"run {run_folder.name!r}: whoever watches it does not let go; end the other `fedgtv-coordinator run` first"
    )


def unwatched(runs_folder: Path) -> list[str]:
    """Returns the names of the runs that are wanted and that nobody watches."""
    folders = sorted(path.parent for path in runs_folder.glob(f"*/{WANTED}"))
    return [folder.name for folder in folders if not is_held(folder / WATCHED)]


def _read(path: Path, model: type[Model]) -> Model | None:
    """None where there is no file, or none of ours: then nothing is wanted."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
