"""An experiment's steps, in order, each from where the ledger left it."""

import time

from common.config import EvaluateStep, Experiment, StatisticsStep, Step, TrainStep
from server.aggregation import make_strategy
from server.evaluation import evaluate
from server.ledger import Ledger
from server.rounds import Sites
from server.run import Run
from server.statistics import gather_statistics
from server.training import train


def run_experiment(experiment: Experiment, ledger: Ledger, sites: Sites, coordinator: str | None = None) -> None:
    """Does every step that the ledger does not show as done; every round is on disk before the next starts.

    A run that came to its end asks no site, and its ledger stays as it is. `coordinator` is told on the models' cards.

    Raises:
        ConfigError: a strategy does not take its step's options; nothing was asked of a site.
        SiteError: a named site is not enrolled or does not connect.
        WorkError: a round failed; running again continues after the last good one.
    """
    if ledger.find("end"):
        return
    check_strategies(experiment)
    sites.wait_until_joined(experiment.sites)
    run = Run(experiment, ledger, sites, coordinator)
    for number, step in enumerate(experiment.steps):
        if not ledger.find("done", step=number):
            _do_step(run, number, step)
    ledger.append({"kind": "end"})


def check_strategies(experiment: Experiment) -> None:
    """Raises ConfigError if a step's strategy does not take the options that the step gives it."""
    for step in experiment.steps:
        if isinstance(step, TrainStep):
            make_strategy(step.strategy, step.strategy_options)


def _do_step(run: Run, number: int, step: Step) -> None:
    started = time.monotonic()
    run.ledger.append({"kind": "step", "step": number, "what": step.kind, "model": getattr(step, "model", None)})
    match step:
        case StatisticsStep():
            gather_statistics(run, number)
        case EvaluateStep():
            evaluate(run, number, step)
        case _:
            train(run, number, step)
    run.ledger.append({"kind": "done", "step": number, "seconds": round(time.monotonic() - started, 1)})
