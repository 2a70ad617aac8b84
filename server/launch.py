"""An experiment on the running federation: `run` begins it and watches it, `up` goes on with what nobody watches."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import FedgtvError, InputError, SiteError, WorkError
from common.experiment import Experiment
from common.settings import load_yaml
from server.control import Control
from server.experiment import check_strategies, refuse_pooled
from server.ledger import EXPERIMENT, Ledger, end_of_run
from server.provision import read_sites
from server.remedies import DISK_FULL, remedy
from server.supervision import Supervisor
from server.wanted import StoppedError, TakenOverError, check_wanted, forget, want, wanted, watching

Tell = Callable[[dict[str, Any]], None]


def launch(
    control: Control,
    folder: Path,
    experiment: Experiment,
    name: str,
    tell: Tell,
    waiting: Callable[[], None] = lambda: None,
    coordinator: str | None = None,
) -> Path:
    """Runs or resumes `experiment` as run `name` and returns its folder when it has ended well.

    A run that came to its end before is told by its `end` line and returned at once; nothing is asked of anyone. One
    that is under way is watched from here on. The run starts again by itself after a crash of ServerApp or SuperLink.

    Args:
        control: of the running SuperLink.
        folder: the SuperLink's, with `sites.json` and `runs/`.
        experiment: what to run.
        name: the run's; the same name continues an interrupted run.
        tell: hears every new ledger line but `failed`, whose reason is that of the error raised.
        waiting: called about once a second; what it raises ends the watch, but for Ctrl-C not the run.
        coordinator: its address, for the models' cards.

    Raises:
        SiteError: a named site is not enrolled, or did not connect.
        ConfigError: the run's folder holds a run of another experiment, a step's options are wrong, or a step is
            `pooled`.
        WorkError: the coordinator is not up; or the run failed, or was stopped: run it again to continue.
        TakenOverError: it is watched from elsewhere now, and goes on.
    """
    run_folder = folder / "runs" / name
    if _has_ended(run_folder, experiment, tell):
        return run_folder
    refuse_pooled(experiment)
    check_strategies(experiment)
    _node_ids(folder, experiment)
    if wanted(run_folder) is None:
        control.check_up()
    _claim(run_folder, experiment)
    with watching(run_folder) as still_mine:
        want(run_folder, coordinator)
        _supervise(control, folder, name, experiment, tell, _both(still_mine, waiting), coordinator)
    return run_folder


def go_on(control: Control, folder: Path, name: str, tell: Tell, waiting: Callable[[], None]) -> Path:
    """As `launch`, for a run that is wanted and that nobody watches; it need not be known why it is watched no more.

    Raises:
        InputError, WorkError: as `launch`; the run is wanted no more.
        TakenOverError: somebody watches it after all.
    """
    run_folder = folder / "runs" / name
    with watching(run_folder, take_over=False) as still_mine, _wanted_until_settled(run_folder):
        asked, experiment = check_wanted(run_folder), load_yaml(run_folder / EXPERIMENT, Experiment)
        _supervise(control, folder, name, experiment, tell, _both(still_mine, waiting), asked.coordinator)
    return run_folder


def _supervise(
    control: Control,
    folder: Path,
    name: str,
    experiment: Experiment,
    tell: Tell,
    waiting: Callable[[], None],
    coordinator: str | None,
) -> None:
    run_folder = folder / "runs" / name
    with _wanted_until_settled(run_folder):
        node_ids = _node_ids(folder, experiment)
        supervisor = Supervisor(control, folder, name, experiment, node_ids, tell, waiting, coordinator)
        if _has_ended(run_folder, experiment, tell):  # under another watcher, until a moment ago
            return
        try:
            supervisor.run()
        except (KeyboardInterrupt, StoppedError, InputError):  # the last: the ledger broke while it was written
            supervisor.stop()
            raise


@contextmanager
def _wanted_until_settled(run_folder: Path) -> Iterator[None]:
    """The run is wanted no more once it has ended, well or not; what ends the watch alone leaves it wanted."""
    try:
        yield
    except TakenOverError:
        raise
    except FedgtvError:
        forget(run_folder)
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        forget(run_folder)
        raise WorkError(f"{run_folder}: {remedy(DISK_FULL)}") from error
    forget(run_folder)


def _has_ended(run_folder: Path, experiment: Experiment, tell: Tell) -> bool:
    """Tells the `end` line of a run that came to its end."""
    end = end_of_run(run_folder, experiment)
    if end is not None:
        tell(end)
    return end is not None


def _claim(run_folder: Path, experiment: Experiment) -> None:
    """Makes the folder the experiment's, unless it is; the ledger is not touched then, for it may be written to now.

    Raises:
        ConfigError: it holds a run of another experiment.
        WorkError: a run of another experiment is under way there.
    """
    path = run_folder / EXPERIMENT
    if not path.exists() or load_yaml(path, Experiment) != experiment:
        Ledger(run_folder, experiment)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


def _node_ids(folder: Path, experiment: Experiment) -> dict[str, int]:
    sites = read_sites(folder / "sites.json")
    unknown = [site for site in experiment.sites if site not in sites]
    if unknown:
        known = ", ".join(sorted(sites)) or "none"
        raise SiteError(f"site {unknown[0]!r} is not enrolled (enrolled: {known}); enrol it, or leave it out")
    return {site: sites[site].node_id for site in experiment.sites}
