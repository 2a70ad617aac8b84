"""Training steps: cohorts of sites, their rounds, each on disk before the next, and the round that is kept.

A federated model has one cohort of all the step's sites; a `local` or `finetune` step has a cohort of one for each
site. The cohorts of a step work at the same time.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from common.checkpoint import Weights
from common.config import FinetuneStep, LocalStep, TrainStep
from common.model import build_model, model_weights
from common.tasks import TrainResult, TrainTask
from server.aggregation import STATELESS, make_strategy
from server.evaluation import measure
from server.rounds import Outcome, conclude
from server.run import Run

TrainingStep = TrainStep | LocalStep | FinetuneStep


@dataclass
class Cohort:
    """Sites that train one model together."""

    model: str
    sites: tuple[str, ...]
    strategy: FedAvg
    weights: Weights
    validation: dict[int, float] = field(default_factory=dict)
    """Mean validation DSC by round; round 0 is what the step started from."""

    def note_validation(self, number: int, scores: Iterable[float | None]) -> None:
        """Keeps the mean over the sites that know a score of round `number`'s weights."""
        known = [score for score in scores if score is not None]
        if known:
            self.validation[number] = float(np.mean(known))


def train(run: Run, number: int, step: TrainingStep) -> None:
    """Does the step's rounds from where the ledger left them, and writes the models that it makes.

    A strategy that keeps state between rounds has lost it with its process: its step starts again at round 1.

    Raises:
        WorkError: a round failed.
        ConfigError: the strategy does not take the step's options.
    """
    cohorts = make_cohorts(run, step)
    for current in range(1, step.rounds + 1):
        if not _restore(run, step, cohorts, current):
            _do_round(run, number, step, cohorts, current)
    for cohort in cohorts:
        _choose(run, step, cohort)


def make_cohorts(run: Run, step: TrainingStep) -> list[Cohort]:
    """Returns the step's cohorts, all with the weights that it starts from."""
    sites = run.experiment.sites_of(step)
    start = _initial(run, step)
    if isinstance(step, TrainStep):
        return [Cohort(step.model, sites, make_strategy(step.strategy, step.strategy_options), start)]
    models = run.experiment.results_of(step)
    return [
        Cohort(model, (site,), make_strategy("fedavg", {}), start) for model, site in zip(models, sites, strict=True)
    ]


def _initial(run: Run, step: TrainingStep) -> Weights:
    initial = _initial_model(step)
    if initial:
        return run.ledger.load_model(initial)
    return model_weights(build_model(run.experiment.recipe, run.experiment.seed))


def _initial_model(step: TrainingStep) -> str | None:
    """Name of the model that the step starts from; None: fresh weights."""
    return None if isinstance(step, LocalStep) else step.initial


def _restore(run: Run, step: TrainingStep, cohorts: Sequence[Cohort], current: int) -> bool:
    """Takes a round from the ledger when every cohort's is there and no strategy keeps state between rounds."""
    if isinstance(step, TrainStep) and step.strategy not in STATELESS:
        return False
    lines = [run.ledger.find("round", model=cohort.model, round=current) for cohort in cohorts]
    if not all(lines):
        return False
    for cohort, found in zip(cohorts, lines, strict=True):
        cohort.note_validation(current - 1, [told["validation_dsc"] for told in found[-1]["sites"].values()])
        cohort.weights = run.ledger.load_round(cohort.model, current)
    return True


def _do_round(run: Run, number: int, step: TrainingStep, cohorts: Sequence[Cohort], current: int) -> None:
    started = time.monotonic()
    messages: dict[str, Message] = {}
    for cohort in cohorts:
        task = _task(run, number, step, cohort.model, current)
        messages |= run.sites.train_messages(cohort.strategy, task, cohort.weights, cohort.sites)
    replies = run.sites.ask(messages)
    for cohort in cohorts:
        mine = {site: replies.get(site) for site in cohort.sites}
        quorum = min(run.experiment.rounds.quorum or len(cohort.sites), len(cohort.sites))
        outcome = conclude(cohort.strategy, current, mine, cohort.weights, quorum, run.num_cases())
        cohort.weights = outcome.weights
        cohort.note_validation(current - 1, [result.validation_dsc for result in outcome.results.values()])
        run.ledger.save_round(cohort.model, current, cohort.weights, run.metadata(cohort.model, current, cohort.sites))
        run.ledger.append(_line(number, step, cohort.model, current, outcome, time.monotonic() - started))


def _task(run: Run, number: int, step: TrainingStep, model: str, current: int) -> TrainTask:
    experiment = run.experiment
    return TrainTask(
        experiment=experiment.name,
        recipe=experiment.recipe,
        split=experiment.split,
        model=model,
        step=number,
        round=current,
        epochs_done=(current - 1) * step.local_epochs,
        local_epochs=step.local_epochs,
        epochs_total=step.epochs,
        lr0=step.lr0 or experiment.recipe.training.lr0,
        seed=experiment.seed,
        normalisation=run.normalisation(),
        validate_received=current > 1 or (_initial_model(step) is not None and step.rounds > 1),
        transport=experiment.rounds.transport,
    )


def _line(
    number: int, step: TrainingStep, model: str, current: int, outcome: Outcome, seconds: float
) -> dict[str, Any]:
    return {
        "kind": "round",
        "step": number,
        "model": model,
        "round": current,
        "rounds": step.rounds,
        "sites": {site: _told(result) for site, result in sorted(outcome.results.items())},
        "dropped": outcome.dropped,
        "seconds": round(seconds, 1),
    }


def _told(result: TrainResult) -> dict[str, Any]:
    return {
        "cases": result.num_examples,
        "epochs": [{"epoch": each.epoch, "lr": each.lr, **each.losses} for each in result.epochs],
        "validation_dsc": result.validation_dsc,
        "seconds": round(result.seconds, 1),
    }


def _choose(run: Run, step: TrainingStep, cohort: Cohort) -> None:
    """Keeps the last round's model, or the one with the best validation DSC (never chosen by test cases).

    Of equals the later round is kept; where no site knows a validation DSC, the last.
    """
    chosen = step.rounds
    if step.select == "best":
        cohort.note_validation(step.rounds, _validated(run, cohort))
        scores = {number: score for number, score in cohort.validation.items() if number > 0}
        chosen = max(scores, key=lambda number: (scores[number], number)) if scores else step.rounds
    weights = cohort.weights if chosen == step.rounds else run.ledger.load_round(cohort.model, chosen)
    run.ledger.save_model(cohort.model, weights, run.metadata(cohort.model, chosen, cohort.sites))
    run.ledger.append(
        {"kind": "model", "model": cohort.model, "round": chosen, "validation_dsc": cohort.validation.get(chosen)}
    )


def _validated(run: Run, cohort: Cohort) -> list[float | None]:
    """Returns the validation DSC of the cohort's present weights at the sites that may tell it."""
    results, _ = measure(run, {cohort.model: cohort.weights}, cohort.sites, "validation")
    return [result.summaries[cohort.model].metrics["dsc"].mean for result in results.values() if not result.withheld]
