"""The steps of an experiment: what each is told, and what it makes."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.settings import Frozen, Name


class StatisticsStep(Frozen):
    """Asks every site for its HU histogram and case counts."""

    kind: Literal["statistics"]


class Training(Frozen):
    """What all steps that train share."""

    model: Name
    """Name of the result (`local` and `finetune` append `-SITE`)."""
    sites: tuple[Name, ...] = ()
    """Empty: all of the experiment's sites."""
    rounds: int = Field(default=1, ge=1)
    """How often weights are averaged (`local`, `finetune`, `pooled`: put on the coordinator's disk)."""
    local_epochs: int = Field(default=1, ge=1)
    """Epochs a round at each site."""
    lr0: float | None = Field(default=None, gt=0)
    """Instead of the recipe's."""
    select: Literal["last", "best"] = "last"
    """The last round's model, or the one with the best validation DSC."""
    recipe: Name | None = None
    """One of the experiment's `recipes`; none: that of `initial`, or the experiment's `recipe`."""
    folds: bool = False
    """Whether it is done once for each of the split's `folds`; from an `initial` that was, it always is."""

    @property
    def epochs(self) -> int:
        """Global epochs of the step: rounds times local epochs."""
        return self.rounds * self.local_epochs


class TrainStep(Training):
    """Federated training over sites."""

    kind: Literal["train"]
    initial: Name | None = None
    """A model of an earlier step; none: fresh weights from the experiment's seed."""
    strategy: Literal[
        "fedavg",
        "fedavgm",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedbn",
        "cyclic",
        "trimmed-mean",
        "median",
        "krum",
        "multikrum",
    ] = "fedavg"
    """How the sites' weights become one model (`cyclic`: it goes from site to site); the last four withstand a few bad
    sites among many."""
    strategy_options: dict[str, float] = Field(default={})
    """What the strategy can be told, such as `proximal_mu` (FedProx) or `beta` (trimmed mean)."""


class LocalStep(Training):
    """Every site trains alone from the same fresh weights: the comparison a federation has to beat."""

    kind: Literal["local"]


class FinetuneStep(Training):
    """Every site fine-tunes `initial` alone on its own cases."""

    kind: Literal["finetune"]
    initial: Name
    """A model of an earlier step, the same for every site."""


class PooledStep(Training):
    """Trains one model on the training cases of all its sites together: what a federation is measured against.

    For simulations alone. Every site's own split holds, so no case that tests at a site trains it.
    """

    kind: Literal["pooled"]
    initial: Name | None = None
    """A model of an earlier step; none: fresh weights from the experiment's seed."""


class EvaluateStep(Frozen):
    """Cross-site matrix: every model at every site's held-out cases."""

    kind: Literal["evaluate"]
    models: tuple[Name, ...] = Field(min_length=1)
    """Models of earlier steps; the base name of a `local` or `finetune` step stands for all its sites' models."""
    sites: tuple[Name, ...] = ()
    """Where they are measured; empty: all of the experiment's sites."""
    split: Literal["validation", "test"] = "test"
    """On which part of a site's cases."""
    models_per_message: int = Field(default=1, ge=1)
    """How many models travel together; more saves waits, fewer saves memory."""
    pictures: int = Field(default=0, ge=0)
    """Overlays asked of each site for the first model; a site sends them only if its policy allows."""
    compare: tuple[tuple[Name, Name], ...] = ()
    """Pairs of `models` that are compared case by case, the first less the second; none: the first with each other."""

    @model_validator(mode="after")
    def _pairs_are_two(self) -> Self:
        for first, second in self.compare:
            if first == second:
                raise ValueError(f"compare: {first!r} with itself; name two models")
        twice = [pair for number, pair in enumerate(self.compare) if {*pair} in map(set, self.compare[:number])]
        if twice:
            raise ValueError(f"compare: {twice[0][0]!r} with {twice[0][1]!r} twice; name every pair once")
        return self


What = Literal["planes", "features", "boundary"]
Rank = Literal["best", "median", "worst"]


class PicturesStep(Frozen):
    """Pictures of single test cases at the sites whose policy lets them go (paper, figures 3, 5 and 6)."""

    kind: Literal["pictures"]
    models: tuple[Name, ...] = Field(min_length=1)
    """Models of earlier steps, a row each; the first one's DSC chooses the cases."""
    what: tuple[What, ...] = Field(default=("planes", "features", "boundary"), min_length=1)
    """`planes`: contour and prediction; `features`: maps of the finest skip connection; `boundary`: probabilities."""
    sites: tuple[Name, ...] = ()
    """Whose cases are drawn; empty: all of the experiment's sites."""
    cases: tuple[Rank, ...] = Field(default=("best", "median", "worst"), min_length=1)
    """Which of a site's test cases are drawn."""
    fold: int = Field(default=0, ge=0)
    """Of models that are made for each fold, which fold's, on the cases that it tests; 0: models of the plain split."""


TrainingStep = TrainStep | LocalStep | FinetuneStep | PooledStep
Step = Annotated[StatisticsStep | TrainingStep | EvaluateStep | PicturesStep, Field(discriminator="kind")]


def initial_of(step: Any) -> str | None:
    """Returns the model that a step goes on from; None: fresh weights, or a step that trains nothing."""
    return getattr(step, "initial", None)
