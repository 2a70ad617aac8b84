"""On which sites' cases a model was trained, and on which it was fine-tuned, read off an experiment's steps."""

from dataclasses import dataclass

from common.experiment import Experiment
from common.steps import TrainingStep


@dataclass(frozen=True)
class Lineage:
    """One model's way."""

    base: str
    """The step's name for it, without a site."""
    trained: frozenset[str]
    tuned: frozenset[str] = frozenset()
    """Empty: used as it was trained."""
    epochs: int = 0
    """Of the last step."""
    initial: str | None = None


def lineages(experiment: Experiment) -> dict[str, Lineage]:
    """Returns the lineage of every model that the experiment makes; the folds of one are one."""
    told: dict[str, Lineage] = {}
    for step in experiment.steps:
        if not isinstance(step, TrainingStep):
            continue
        initial = getattr(step, "initial", None)
        for model in experiment.results_of(step):
            own = frozenset(experiment.cohort_of(model))
            before = told.get(initial) if initial else None
            told[model] = (
                Lineage(step.model, before.trained, own, step.epochs, initial)
                if before
                else Lineage(step.model, own, epochs=step.epochs)
            )
    return told
