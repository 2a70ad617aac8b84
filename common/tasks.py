"""What the coordinator asks of a site and what a site answers: plain records without Flower or torch."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from common import WIRE_VERSION
from common.digest import DIGEST
from common.errors import CODES
from common.recipe import Recipe
from common.settings import Frozen, Name
from common.split import SplitConfig
from common.steps import Rank, What
from common.text import clean_text

OTHER_WIRE = "the other side speaks wire version"


def _known_code(code: str) -> str:
    if code not in CODES:
        raise ValueError("no code of this release; update one side")
    return code


NORM = "norm"
"""The word in `local_layers` for all normalisation layers."""
MAX_EPOCHS, MAX_SECONDS = 1_000_000, 1e8
"""What a site may tell of one task."""
Count = Annotated[int, Field(ge=0)]
SiteText = Annotated[str, AfterValidator(clean_text)]


class NormalisationRecord(Frozen):
    """Mean and population SD (HU) over the body voxels of all sites' training cases."""

    mean: float
    sd: float = Field(gt=0)


class _Asked(Frozen):
    """What everything that a site is asked holds: the wire version, and the experiment it is for."""

    wire_version: int = WIRE_VERSION
    experiment: Name

    @field_validator("wire_version")
    @classmethod
    def _same_wire(cls, version: int) -> int:
        if version != WIRE_VERSION:
            raise ValueError(f"{OTHER_WIRE} {version}; this release {WIRE_VERSION}; update one")
        return version


class ProgressTask(_Asked):
    """Tell how far the work for an experiment is; a node answers at once, also while its ClientApp trains."""


class _Task(_Asked):
    """Work on the site's cases."""

    recipe: Recipe
    split: SplitConfig


class StatisticsTask(_Task):
    """Prepare the cases (fills the cache) and count HU over the training cases' body voxels."""


class TrainTask(_Task):
    """Train the weights that come with it for `local_epochs` epochs on the site's training cases."""

    model: Name
    step: Count
    round: Annotated[int, Field(ge=1)]
    epochs_done: Count
    """Global epochs before this round: the poly schedule goes on where it was."""
    local_epochs: Annotated[int, Field(ge=1)]
    epochs_total: Annotated[int, Field(ge=1)]
    lr0: float = Field(gt=0)
    seed: Count
    normalisation: NormalisationRecord
    proximal_mu: float = Field(default=0.0, ge=0)
    """FedProx (arXiv 1812.06127); 0: plain."""
    validate_received: bool = True
    """Measure the received weights on the site's validation cases before training.

    The coordinator asks for it where the value tells something: not of fresh weights, nor in the only round of a step,
    before which there is nothing to choose from or to draw.
    """
    transport: Literal["fp32", "fp16"] = "fp32"
    """Number format of the reply; `fp16`: of what training changed, see `common.wire.pack_trained`."""
    local_layers: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=100)] = ()
    """Weights that stay at the site between rounds, named as in its policy and beside those that the policy keeps."""


class EvaluateTask(_Task):
    """Measure each of the models that come with it on one part of the site's split."""

    models: tuple[Name, ...]
    part: Literal["validation", "test"]
    normalisation: NormalisationRecord
    pictures: Count = 0


Part = tuple[Annotated[str, Field(pattern=DIGEST)], Count]
"""The digest of a measured model (`common/digest.py`), and the fold whose part of the cases it was measured on."""


class CompareTask(_Task):
    """Tell how what was measured here is spread, and how models differ on the same cases; nothing is measured for it.

    A row is one model on the plain split (fold 0), or the models of all folds, each on its own part: a choice of folds
    could be made so that two answers differ by one patient.
    """

    rows: dict[Name, Annotated[tuple[Part, ...], Field(min_length=1)]] = Field(min_length=1)
    """What was measured, by the name that the answer gives it."""
    pairs: tuple[tuple[Name, Name], ...] = ()
    """Rows that are compared: the first less the second, on the cases that both hold."""
    part: Literal["validation", "test"]
    metrics: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        for name, parts in self.rows.items():
            if sorted(fold for _, fold in parts) not in ([0], self._folds()):
                raise ValueError(f"row {name!r}: expected the plain split, or every fold once")
            if self.part != "test" and len(parts) > 1:
                raise ValueError(f"row {name!r}: over folds a patient validates more than once; ask for part 'test'")
        odd = sorted({name for pair in self.pairs for name in pair} - set(self.rows))
        if odd:
            raise ValueError(f"pairs name {odd[0]!r}; expected one of the rows")
        return self

    def of_fold(self, fold: int) -> Self:
        """Returns the task with the split of one fold; 0: the plain one."""
        return self.model_copy(update={"split": self.split.model_copy(update={"fold": fold})}) if fold else self

    def _folds(self) -> list[int]:
        return list(range(1, self.split.folds + 1))


class PictureTask(_Task):
    """Draw single test cases with each of the models that come with it; the first one's DSC chooses the cases."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    recipes: dict[Name, Recipe] = Field(default_factory=dict)
    """Of those models that are not of `recipe`."""
    normalisation: NormalisationRecord
    what: tuple[What, ...]
    cases: tuple[Rank, ...]

    def of(self, model: str) -> "PictureTask":
        """Returns the task with the recipe of one of its models."""
        return self.model_copy(update={"recipe": self.recipes.get(model, self.recipe)})


SiteTask = StatisticsTask | TrainTask | EvaluateTask | CompareTask | PictureTask
"""Work that a site may be asked for."""


class SiteStatistics(Frozen):
    """Case counts of the split; the histogram travels beside it as an array."""

    train: Count
    validation: Count
    test: Count
    refused: Count = 0
    """Cases that the recipe's preprocessing refused (the site's own log names them)."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    """Of the content of all its cases, their parts, and what its policy does to updates: the same digest, the same
    training. One number for all cases together, so it tells of no patient; None where the histogram is withheld."""
    seconds: float


class EpochRecord(Frozen):
    """One global epoch at one site: its learning rate and the mean loss of each stage."""

    epoch: Count
    lr: float
    losses: dict[Annotated[str, Field(pattern="^stage[12]$")], float]


class TrainResult(Frozen):
    """What goes with a site's trained weights."""

    model: Name
    round: Annotated[int, Field(ge=1)]
    """Of the task that this answers."""
    num_examples: Annotated[int, Field(ge=1, le=1_000_000)]
    """Training cases, not patches: the weight of the site in the mean."""
    epochs: tuple[EpochRecord, ...]
    validation_dsc: Annotated[float, Field(ge=0, le=1)] | None
    """Mean DSC of the received weights on the validation cases; None without cases or when not asked."""
    num_validated: Count = 0
    """Cases that it is the mean of."""
    local_layers: tuple[Annotated[str, Field(max_length=200)], ...] = ()
    """Names of the weights that the site keeps to itself: they are not among those that travel beside this."""
    seconds: float


class SiteProgress(Frozen):
    """How far a site is with what it is at work on; nothing in it is about a patient."""

    state: Literal["idle", "queued", "preparing", "training", "validating", "evaluating", "sending"] = "idle"
    """`queued`: the task is there, its process is not at work on it yet."""
    model: Name | None = None
    round: Annotated[int, Field(ge=1)] | None = None
    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = 0
    """Done in this round, over all stages."""
    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = 0
    """Of this round, over all stages; 0 for a task that trains nothing."""
    seconds: float = Field(default=0.0, ge=0, le=MAX_SECONDS)
    """Since the task began."""
    error: Annotated[str, AfterValidator(_known_code)] | None = None
    """The code that the last task here ended in, where it was one for this experiment."""


class MetricSummary(Frozen):
    """Mean and sample SD (None when it cannot be computed or may not leave)."""

    mean: float | None
    sd: float | None


class ModelSummary(Frozen):
    """How one model did at one site."""

    n: Count
    num_undefined: Count
    """Cases whose distances are undefined because prediction or truth is empty."""
    metrics: dict[str, MetricSummary]
    truth_metrics: dict[str, MetricSummary] = Field(default_factory=dict)
    """Against the true tumour, as far as all cases are phantoms that have one; the rest of the error in `metrics` is
    the delineation's style."""


class EvaluateResult(Frozen):
    """Summaries by model; pictures travel beside it, if the site's policy allows them."""

    summaries: dict[str, ModelSummary]
    withheld: SiteText | None = None
    """Why there are no summaries: the site's policy."""
    seconds: float


class SpreadNumbers(Frozen):
    """How one metric is spread over cases; None: too few of them to tell."""

    mean: float | None = None
    sd: float | None = None
    """Sample SD; None for one case."""
    median: float | None = None
    low: float | None = None
    """With `high` the 95 % interval of the mean, by the percentile bootstrap."""
    high: float | None = None
    q1: float | None = None
    """The box's lower edge; box and whiskers are told only where a site's policy lets them go."""
    q3: float | None = None
    whisker_low: float | None = None
    whisker_high: float | None = None


class MetricSpread(SpreadNumbers):
    """Over the cases of one row where the metric is defined."""

    n: Count


class RowSpread(Frozen):
    """One row at one site."""

    n: Count
    num_undefined: Count
    num_empty: Count
    """Cases in which the model found nothing."""
    fewest: Count = 0
    """Cases of the smallest of its parts that has any: folds, or the plain split's one."""
    metrics: dict[str, MetricSpread]


class MetricDifference(Frozen):
    """The first less the second over the cases where both are defined; None: too few cases to tell.

    Of the t-test nothing travels: n, mean and SD tell it, here as over all sites.
    """

    n: Count
    difference: float | None = None
    sd: float | None = Field(default=None, ge=0)
    ranks: float | None = None
    """Of Wilcoxon's test, as `common.paired_tests.SignedRanks` has them."""
    squares: float | None = Field(default=None, ge=0)
    wilcoxon_p: float | None = Field(default=None, ge=0, le=1)


class PairDifference(Frozen):
    """Two rows at one site."""

    first: Name
    second: Name
    metrics: dict[str, MetricDifference]


class CompareResult(Frozen):
    """Rows by name, and pairs in the task's order."""

    rows: dict[Name, RowSpread]
    pairs: tuple[PairDifference, ...]
    seconds: float


class Drawing(Frozen):
    """What one picture of a `PictureTask` shows."""

    what: What
    rank: Rank
    case: Annotated[int, Field(ge=1, le=1_000_000)]
    """Counted from 1 among the cases of the part."""
    dsc: dict[Name, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """By model; empty where the site tells no metrics of single cases."""


class PictureResult(Frozen):
    """What the pictures show that travel beside it, in their order."""

    n: Count
    """Cases that the drawn ones were chosen from."""
    drawings: tuple[Drawing, ...] = ()
    withheld: SiteText | None = None
    """Why there are none: the site's policy."""
    seconds: float


@dataclass(frozen=True)
class Picture:
    """One case that a site lets be seen."""

    png: bytes
    """The file: three planes with the true and the predicted contour."""
    dsc: float | None
    """Of the drawn prediction; None when the site did not tell."""
