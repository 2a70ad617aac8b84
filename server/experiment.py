"""An experiment's steps, in order, each from where the ledger left it."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from common import wire
from common.config import EvaluateStep, Experiment, FinetuneStep, LocalStep, StatisticsStep, TrainStep
from common.errors import WorkError
from common.model import build_model, model_weights
from common.statistics import HuHistogram
from common.tasks import EvaluateResult, EvaluateTask, NormalisationRecord, SiteStatistics, StatisticsTask, TrainTask
from server.aggregation import STATELESS, make_strategy
from server.ledger import Ledger
from server.rounds import Outcome, Sites, conclude

log = logging.getLogger("fedgtv.coordinator")
TrainingStep = TrainStep | LocalStep | FinetuneStep


@dataclass
class Cohort:
    """Sites that train one model together; a local or fine-tuned model is a cohort of one."""

    model: str
    sites: tuple[str, ...]
    strategy: FedAvg
    weights: wire.Weights
    validation: dict[int, float] = field(default_factory=dict)
    """Mean validation DSC by round; round 0 is what the step started from."""


def run_experiment(experiment: Experiment, ledger: Ledger, sites: Sites) -> None:
    """Does every step that the ledger does not show as done; every round is on disk before the next starts.

    Raises:
        SiteError: a named site is not enrolled or does not connect.
        WorkError: a round failed; running again continues after the last good one.
    """
    sites.wait_until_joined(experiment.sites)
    runner = _Runner(experiment, ledger, sites)
    for number, step in enumerate(experiment.steps):
        if ledger.find("done", step=number):
            continue
        started = time.monotonic()
        ledger.append({"kind": "step", "step": number, "what": step.kind, "model": getattr(step, "model", None)})
        runner.run_step(number, step)
        ledger.append({"kind": "done", "step": number, "seconds": round(time.monotonic() - started, 1)})
    ledger.append({"kind": "end"})


class _Runner:
    def __init__(self, experiment: Experiment, ledger: Ledger, sites: Sites) -> None:
        self.experiment = experiment
        self.ledger = ledger
        self.sites = sites

    def run_step(self, number: int, step: Any) -> None:
        if isinstance(step, StatisticsStep):
            self._statistics(number)
        elif isinstance(step, EvaluateStep):
            self._evaluate(number, step)
        else:
            self._train(number, step)

    # Statistics ----------------------------------------------------------------------------------------------------

    def _statistics(self, number: int) -> None:
        started = time.monotonic()
        task = StatisticsTask(
            experiment=self.experiment.name, recipe=self.experiment.recipe, split=self.experiment.split
        )
        replies = self._ask_all(
            {site: self.sites.message(site, wire.STATISTICS, task) for site in self.experiment.sites}
        )
        pooled, told = HuHistogram.empty(), {}
        for site in sorted(replies):
            result = wire.read_result(replies[site], SiteStatistics)
            counts = wire.read_histogram(replies[site])
            if counts is not None:
                pooled += HuHistogram.from_array(counts)
            told[site] = {
                **result.model_dump(exclude={"seconds"}),
                "voxels": None if counts is None else int(counts.sum()),
            }
        if not pooled.num_voxels:
            raise WorkError("statistics: no site may send its histogram (fewer cases than its min_cases); add cases")
        self.ledger.append(
            {
                "kind": "statistics",
                "step": number,
                "sites": told,
                "mean": pooled.mean,
                "sd": pooled.sd,
                "seconds": round(time.monotonic() - started, 1),
            }
        )

    def _normalisation(self) -> NormalisationRecord:
        found = self.ledger.find("statistics")
        if not found:
            raise WorkError("no statistics yet; put a `statistics` step before training and evaluation")
        return NormalisationRecord(mean=found[-1]["mean"], sd=found[-1]["sd"])

    # Training ------------------------------------------------------------------------------------------------------

    def _train(self, number: int, step: TrainingStep) -> None:
        cohorts = self._cohorts(step)
        for current in range(1, step.rounds + 1):
            if self._restore(cohorts, current):
                continue
            self._round(number, step, cohorts, current)
        for cohort in cohorts:
            self._choose(step, cohort)

    def _cohorts(self, step: TrainingStep) -> list[Cohort]:
        names = self.experiment.sites_of(step)
        start = self._initial(step)
        if isinstance(step, TrainStep):
            return [Cohort(step.model, names, make_strategy(step.strategy, step.strategy_options), start)]
        return [Cohort(f"{step.model}-{site}", (site,), make_strategy("fedavg", {}), start) for site in names]

    def _initial(self, step: TrainingStep) -> wire.Weights:
        initial = getattr(step, "initial", None)
        if initial:
            return self.ledger.load_model(initial)
        return model_weights(build_model(self.experiment.recipe, self.experiment.seed))

    def _restore(self, cohorts: Sequence[Cohort], current: int) -> bool:
        """Takes a round from the ledger when every cohort's is there and the strategy keeps no state between rounds."""
        lines = {cohort.model: self.ledger.find("round", model=cohort.model, round=current) for cohort in cohorts}
        step = next(step for step in self.experiment.steps if cohorts[0].model in _made_by(self.experiment, step))
        if not all(lines.values()) or getattr(step, "strategy", "fedavg") not in STATELESS:
            return False
        for cohort in cohorts:
            _note_validation(
                cohort, current - 1, [s["validation_dsc"] for s in lines[cohort.model][-1]["sites"].values()]
            )
            cohort.weights = self.ledger.load_round(cohort.model, current)
        return True

    def _round(self, number: int, step: TrainingStep, cohorts: Sequence[Cohort], current: int) -> None:
        started = time.monotonic()
        messages: dict[str, Message] = {}
        for cohort in cohorts:
            task = self._train_task(number, step, cohort.model, current)
            messages |= self.sites.train_messages(cohort.strategy, task, cohort.weights, cohort.sites)
        replies = self.sites.ask(messages)
        for cohort in cohorts:
            quorum = min(self.experiment.rounds.quorum or len(cohort.sites), len(cohort.sites))
            mine = {site: replies.get(site) for site in cohort.sites}
            outcome = conclude(cohort.strategy, current, mine, cohort.weights, quorum)
            self._record(number, step, cohort, current, outcome, time.monotonic() - started)

    def _train_task(self, number: int, step: TrainingStep, model: str, current: int) -> TrainTask:
        return TrainTask(
            experiment=self.experiment.name,
            recipe=self.experiment.recipe,
            split=self.experiment.split,
            model=model,
            step=number,
            round=current,
            epochs_done=(current - 1) * step.local_epochs,
            local_epochs=step.local_epochs,
            epochs_total=step.epochs,
            lr0=step.lr0 or self.experiment.recipe.training.lr0,
            seed=self.experiment.seed,
            normalisation=self._normalisation(),
            transport=self.experiment.rounds.transport,
        )

    def _record(
        self, number: int, step: TrainingStep, cohort: Cohort, current: int, outcome: Outcome, seconds: float
    ) -> None:
        cohort.weights = outcome.weights
        _note_validation(cohort, current - 1, [result.validation_dsc for result in outcome.results.values()])
        self.ledger.save_round(cohort.model, current, cohort.weights, self._metadata(cohort.model, current))
        told = {
            site: {
                "cases": result.num_examples,
                "epochs": [{"epoch": e.epoch, "lr": e.lr, **e.losses} for e in result.epochs],
                "validation_dsc": result.validation_dsc,
                "seconds": round(result.seconds, 1),
            }
            for site, result in sorted(outcome.results.items())
        }
        self.ledger.append(
            {
                "kind": "round",
                "step": number,
                "model": cohort.model,
                "round": current,
                "rounds": step.rounds,
                "sites": told,
                "dropped": outcome.dropped,
                "seconds": round(seconds, 1),
            }
        )

    def _choose(self, step: TrainingStep, cohort: Cohort) -> None:
        """Keeps the last round's model, or the one with the best validation DSC (never chosen by test cases)."""
        chosen = step.rounds
        if step.select == "best":
            _note_validation(cohort, step.rounds, self._validate(cohort))
            scores = {number: score for number, score in cohort.validation.items() if number > 0}
            chosen = max(scores, key=lambda number: (scores[number], number)) if scores else step.rounds
        weights = cohort.weights if chosen == step.rounds else self.ledger.load_round(cohort.model, chosen)
        self.ledger.save_model(cohort.model, weights, self._metadata(cohort.model, chosen))
        self.ledger.append(
            {"kind": "model", "model": cohort.model, "round": chosen, "validation_dsc": cohort.validation.get(chosen)}
        )

    def _validate(self, cohort: Cohort) -> list[float | None]:
        results = self._measure({cohort.model: cohort.weights}, cohort.sites, "validation", 0)[0]
        return [result.summaries[cohort.model].metrics["dsc"].mean for result in results.values() if result.summaries]

    def _metadata(self, model: str, number: int) -> dict[str, str]:
        return {
            "experiment": self.experiment.name,
            "model": model,
            "round": str(number),
            "sites": ", ".join(self.experiment.sites),
            "recipe": self.experiment.recipe.model_dump_json(),
            "normalisation": self._normalisation().model_dump_json(),
        }

    # Evaluation ----------------------------------------------------------------------------------------------------

    def _evaluate(self, number: int, step: EvaluateStep) -> None:
        started = time.monotonic()
        names = [name for base in step.models for name in self._expand(base)]
        matrix: dict[str, dict[str, Any]] = {name: {} for name in names}
        pictures: list[str] = []
        for start in range(0, len(names), step.models_per_message):
            chunk = names[start : start + step.models_per_message]
            models = {name: self.ledger.load_model(name) for name in chunk}
            wanted = 0 if start else step.pictures
            results, pngs = self._measure(models, self.experiment.sites_of(step), step.split, wanted)
            for site, result in results.items():
                for name in chunk:
                    matrix[name][site] = _plain(result, name)
            pictures += [
                self.ledger.save_picture(site, k, png) for site, many in pngs.items() for k, png in enumerate(many, 1)
            ]
        self.ledger.append(
            {
                "kind": "evaluation",
                "step": number,
                "split": step.split,
                "matrix": matrix,
                "pictures": pictures,
                "seconds": round(time.monotonic() - started, 1),
            }
        )

    def _expand(self, base: str) -> tuple[str, ...]:
        step = next(step for step in self.experiment.steps if base in _made_by(self.experiment, step))
        return self.experiment.results_of(step) if base == getattr(step, "model", None) else (base,)

    def _measure(
        self, models: Mapping[str, wire.Weights], names: Sequence[str], part: str, pictures: int
    ) -> tuple[dict[str, EvaluateResult], dict[str, list[bytes]]]:
        task = EvaluateTask(
            experiment=self.experiment.name,
            recipe=self.experiment.recipe,
            split=self.experiment.split,
            models=tuple(models),
            part="test" if part == "test" else "validation",
            normalisation=self._normalisation(),
            pictures=pictures,
        )
        records = {
            name: wire.weights_to_record(weights, self.experiment.rounds.transport) for name, weights in models.items()
        }
        replies = self._ask_all({site: self.sites.message(site, wire.EVALUATE, task, records) for site in names})
        return (
            {site: wire.read_result(reply, EvaluateResult) for site, reply in sorted(replies.items())},
            {site: wire.read_pictures(reply) for site, reply in sorted(replies.items())},
        )

    def _ask_all(self, messages: Mapping[str, Any]) -> dict[str, Any]:
        """Asks every site and returns all replies; a site that fails or keeps silent ends the step by name."""
        replies = self.sites.ask(messages)
        faults = {site: wire.read_error(replies[site]) if site in replies else "no-answer" for site in messages}
        at_fault = [f"{site} ({reason})" for site, reason in sorted(faults.items()) if reason]
        if at_fault:
            raise WorkError(f"no result from site {', '.join(at_fault)}; its own log says why; run again to go on")
        return replies


def _note_validation(cohort: Cohort, number: int, scores: Sequence[float | None]) -> None:
    known = [score for score in scores if score is not None]
    if known:
        cohort.validation[number] = float(np.mean(known))


def _made_by(experiment: Experiment, step: Any) -> tuple[str, ...]:
    return (step.model, *experiment.results_of(step)) if isinstance(step, TrainingStep) else ()


def _plain(result: EvaluateResult, model: str) -> dict[str, Any]:
    if result.withheld:
        return {"n": 0, "num_undefined": 0, "metrics": {}, "withheld": result.withheld}
    return json.loads(result.summaries[model].model_dump_json())  # type: ignore[no-any-return]
