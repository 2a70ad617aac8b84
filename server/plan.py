"""What a run would do, before it is begun: its steps in order, what of them is done, and how long the rest may take.

Nothing is written, and no site is asked. Times come from rounds that this run or one beside it has on record with the
same recipe, an epoch there counting as an epoch here; where there are none, the time is not known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common.errors import ConfigError, InputError, WorkError
from common.experiment import Experiment
from common.recipe import Recipe
from common.settings import load_yaml
from common.steps import EvaluateStep, PicturesStep, Step
from common.text import counted
from server.experiment import check_strategies
from server.ledger import EXPERIMENT, check_folder
from server.ledger_file import LEDGER, Record, read_lines
from server.model_key import find_earlier, model_key
from server.run import Run
from server.run_record import RoundLine, concurrent_rounds
from server.run_summary import duration

NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Past:
    """A run on record: what it was to do, and its lines."""

    experiment: Experiment
    records: list[Record]

    @classmethod
    def read(cls, folder: Path) -> "Past | None":
        """Returns the run in a folder; None where there is none that can be read."""
        try:
            return cls(load_yaml(folder / EXPERIMENT, Experiment), read_lines(folder / LEDGER))
        except (ConfigError, InputError, OSError):
            return None

    def find(self, kind: str, **fields: object) -> list[Record]:
        """Returns the lines of a kind whose fields have these values."""
        return [
            line
            for line in self.records
            if line["kind"] == kind and all(line.get(key) == value for key, value in fields.items())
        ]


@dataclass(frozen=True)
class _ReadOnlyLedger:
    """As much of a ledger as a key needs, without a lock or a file made."""

    folder: Path
    past: Past

    @property
    def records(self) -> list[Record]:
        return self.past.records

    def find(self, kind: str, **fields: object) -> list[Record]:
        return self.past.find(kind, **fields)


def plan_lines(experiment: Experiment, folder: Path) -> Iterator[str]:
    """Gives the plan of `experiment` in the run's `folder` as lines of text, a step each, then the whole.

    Raises:
        ConfigError: the folder holds a run of another experiment, or a strategy does not take its options.
        InputError: a whole line of its ledger is broken.
    """
    check_folder(folder, experiment)
    check_strategies(experiment)
    here = Past(experiment, read_lines(folder / LEDGER) if (folder / EXPERIMENT).exists() else [])
    plan = _Plan(experiment, folder, here)
    num_steps = counted(len(experiment.steps), "step")
    yield f"{experiment.name}: {num_steps} over {', '.join(experiment.sites)}; run {folder}"
    total: float | None = 0.0
    for number, step in enumerate(experiment.steps):
        text, seconds = plan.of(number, step)
        yield f"{number + 1}. {text}"
        total = None if total is None or seconds is None else total + seconds
    yield f"to do: {counted(plan.num_rounds, 'round')} of training; time: {_shown(total)}"
    if experiment.reuse and not here.find("statistics"):
        yield "what can be copied from other runs is known after the `statistics` step"


def _shown(seconds: float | None) -> str:
    return NOT_KNOWN if seconds is None else f"about {duration(seconds)}".replace("\N{NO-BREAK SPACE}", " ")


class _Plan:
    """Goes through the steps and counts the rounds that are left."""

    def __init__(self, experiment: Experiment, folder: Path, here: Past) -> None:
        self._planned: dict[str, str] = {}
        """By key, who is trained first."""
        ledger: Any = _ReadOnlyLedger(folder, here)
        nobody: Any = None
        self.experiment, self.here, self.num_rounds = experiment, here, 0
        beside = sorted(path.parent for path in folder.parent.glob(f"*/{LEDGER}")) if folder.parent.is_dir() else []
        others = (Past.read(path) for path in beside if path.resolve() != folder.resolve())
        self.pasts = [here, *(past for past in others if past is not None)]
        self.run = Run(experiment, ledger, nobody, None, folder.parent)

    def of(self, number: int, step: Step) -> tuple[str, float | None]:
        """Returns a step's line and the seconds that are left of it; None: not known."""
        sites = ", ".join(self.experiment.sites_of(step))
        if self.here.find("done", step=number):
            return f"{_title(step)} at {sites}: done", 0.0
        if getattr(step, "model", None) is None:
            seconds = self._asking_s(step)
            return f"{_title(step)} at {sites}: {_shown(seconds)}", seconds
        return self._training(step, sites)

    def _training(self, step: Any, sites: str) -> tuple[str, float | None]:
        experiment, model, rounds, local_epochs = self.experiment, step.model, step.rounds, step.local_epochs
        states: list[str] = []
        left = 0
        for fold in experiment.folds_of(model) or (0,):
            names = [name for each in experiment.results_of(step) for name in experiment.files_of(each)]
            names = [name for name in names if not fold or name.endswith(f".fold-{fold}")]
            told, still = zip(*(self._state(name, rounds) for name in names), strict=True)
            states += [text for text in told if text]
            left += max(still)
        self.num_rounds += left
        epoch_s = self._epoch_s(experiment.recipe_of(model))
        seconds = None if epoch_s is None and left else left * local_epochs * (epoch_s or 0.0)
        folds = len(experiment.folds_of(model))
        what = f"{counted(rounds, 'round')} of {counted(local_epochs, 'epoch')}" + (f", {folds} folds" if folds else "")
        named = f", recipe {step.recipe}" if getattr(step, "recipe", None) else ""
        told_states = f" ({'; '.join(states)})" if states else ""
        expected = _shown(seconds) if left else "nothing left"
        return f"{_title(step)} at {sites}: {what}{named}; {expected}{told_states}", seconds

    def _state(self, name: str, rounds: int) -> tuple[str, int]:
        """What is there of a model, and how many of its rounds are left."""
        if self.here.find("model", model=name):
            return f"{name} is done", 0
        done = {line["round"] for line in self.here.find("round", model=name)}
        if done:
            return f"{name}: {len(done)} of {counted(rounds, 'round')} done", rounds - len(done)
        origin = self._origin(name)
        return (f"{name} is copied from {origin}", 0) if origin else ("", rounds)

    def _origin(self, name: str) -> str | None:
        """The model that this one will be a copy of: a finished one, or one that is made before it in this run."""
        try:
            key = model_key(self.run, name)
        except (WorkError, KeyError):  # no statistics yet, or none of this fold
            return None
        earlier = find_earlier(self.run, name, key)
        if earlier is not None or key is None or not self.experiment.reuse:
            return earlier.origin if earlier else None
        first = self._planned.setdefault(key, name)
        return None if first == name else first

    def _epoch_s(self, recipe: Recipe) -> float | None:
        """Median seconds of an epoch with this recipe, of the first run that has one on record."""
        for past in self.pasts:
            if found := [*_epochs_s(past, recipe)]:
                return median(found)
        return None

    def _asking_s(self, step: Step) -> float | None:
        """What the same kind of step took before; an evaluation by the number of models."""
        kind = {"statistics": "statistics", "evaluate": "evaluation", "pictures": "pictures"}.get(step.kind, "")
        lines = next((found for past in self.pasts if (found := past.find(kind))), [])
        if not lines:
            return None
        if not isinstance(step, EvaluateStep):
            return float(median(line["seconds"] for line in lines))
        each = median(line["seconds"] / max(1, len(line["matrix"])) for line in lines)
        return float(each * sum(self._num_models(base) for base in step.models))

    def _num_models(self, base: str) -> int:
        step = self.experiment.maker_of(base)
        return len(self.experiment.results_of(step)) if step.model == base else 1


def _title(step: Step) -> str:
    """`train m (fedprox), from base`, `evaluate a, b on test cases`, `pictures (planes) of a`, `statistics`."""
    if isinstance(step, EvaluateStep):
        return f"evaluate {', '.join(step.models)} on {step.split} cases"
    if isinstance(step, PicturesStep):
        fold = f", fold {step.fold}" if step.fold else ""
        return f"pictures ({', '.join(step.what)}) of {', '.join(step.models)}{fold}"
    strategy, initial = getattr(step, "strategy", None), getattr(step, "initial", None)
    words = [step.kind, getattr(step, "model", None), f"({strategy})" if strategy else None]
    return " ".join(word for word in words if word) + (f", from {initial}" if initial else "")


def _epochs_s(past: Past, recipe: Recipe) -> Iterator[float]:
    """Seconds an epoch of each group of rounds that ran at once, of models with this recipe."""
    rounds: Sequence[RoundLine] = [RoundLine.model_validate(line) for line in past.find("round")]
    for together in concurrent_rounds(rounds):
        step: Any = past.experiment.steps[together[0].step]
        model = getattr(step, "model", None)
        if model is not None and past.experiment.recipe_of(model) == recipe:
            yield max(line.duration_s for line in together) / step.local_epochs
