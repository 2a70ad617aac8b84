"""An experiment's steps, in order, each from where the ledger left it."""

import time
from pathlib import Path

from common.errors import ConfigError
from common.experiment import Experiment
from common.steps import EvaluateStep, PicturesStep, PooledStep, StatisticsStep, Step, TrainStep
from server.evaluation import evaluate
from server.ledger import Ledger
from server.pictures import draw
from server.run import Run
from server.sites import Sites
from server.statistics import gather_statistics
from server.strategy import Strategy
from server.training import train


def run_experiment(
    experiment: Experiment,
    ledger: Ledger,
    sites: Sites,
    coordinator: str | None = None,
    runs: Path | None = None,
) -> None:
    """Does every step that the ledger does not show as done; every round is on disk before the next starts.

    A run that came to its end asks no site, and its ledger stays as it is. `coordinator` is told on the models' cards;
    models of the runs in `runs` that are the same are copied.

    Raises:
        ConfigError: a strategy does not take its step's options; nothing was asked of a site.
        SiteError: a named site is not enrolled or does not connect.
        WorkError: a round failed; running again continues after the last good one.
    """
    if ledger.find("end"):
        return
    check_strategies(experiment)
    _join(experiment, ledger, sites)
    for sentence in cautions(experiment):
        if not ledger.find("note", text=sentence):
            sites.watch.note(sentence)
    run = Run(experiment, ledger, sites, coordinator, runs)
    for number, step in enumerate(experiment.steps):
        if not _is_done(ledger, number, step):
            _do_step(run, number, step)
    ledger.append({"kind": "end"})


def check_strategies(experiment: Experiment) -> None:
    """Raises ConfigError if a step's strategy does not take the options that the step gives it."""
    for number, step in enumerate(experiment.steps, 1):
        if isinstance(step, TrainStep):
            try:
                Strategy(step.strategy, step.strategy_options)
            except ConfigError as error:
                raise ConfigError(f"step {number}: {error}") from error


def refuse_pooled(experiment: Experiment) -> None:
    """Raises ConfigError if a step wants the cases of several sites in one place: over a federation none leaves."""
    for number, step in enumerate(experiment.steps, 1):
        if isinstance(step, PooledStep):
            raise ConfigError(
                f"step {number} is `pooled` and needs all sites' cases on one machine, but over a federation no case "
                "leaves its site; run it with `fedgtv-simulate`, or take the step out"
            )


def cautions(experiment: Experiment) -> list[str]:
    """Returns sentences on strategies that mean nothing over so few sites as a round may close with."""
    found: list[str] = []
    for step in experiment.steps:
        if isinstance(step, TrainStep):
            num_sites = len(experiment.sites_of(step))
            quorum = min(experiment.rounds.quorum or num_sites, num_sites)
            found += Strategy(step.strategy, step.strategy_options).cautions(quorum)
    return list(dict.fromkeys(found))


def _join(experiment: Experiment, ledger: Ledger, sites: Sites) -> None:
    """Waits `join_timeout_s` for all, then for the quorum; where the run goes on, for that as long as for a round."""
    config = experiment.rounds
    goes_on = bool(ledger.find("round") or ledger.find("done"))
    quorum_timeout_s = config.timeout_s if goes_on else config.join_timeout_s
    quorum = config.quorum or len(experiment.sites)
    sites.wait_until_joined(experiment.sites, quorum, config.join_timeout_s, quorum_timeout_s)


def _is_done(ledger: Ledger, number: int, step: Step) -> bool:
    """Whether the ledger shows the step as done, with what came of it: a broken line may have been taken out."""
    kind = {"statistics": "statistics", "evaluate": "evaluation", "pictures": "pictures"}.get(step.kind)
    return bool(ledger.find("done", step=number)) and (kind is None or bool(ledger.find(kind, step=number)))


def _do_step(run: Run, number: int, step: Step) -> None:
    started = time.monotonic()
    model = getattr(step, "model", None)
    run.ledger.append({"kind": "step", "step": number, "what": step.kind, "model": model})
    run.sites.watch.begin(step=number, what=step.kind, model=model, round=None, rounds=None)
    match step:
        case StatisticsStep():
            gather_statistics(run, number)
        case EvaluateStep():
            evaluate(run, number, step)
        case PicturesStep():
            draw(run, number, step)
        case _:
            train(run, number, step)
    run.ledger.append({"kind": "done", "step": number, "seconds": round(time.monotonic() - started, 1)})
