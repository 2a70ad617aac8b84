"""A run folder as typed data: the experiment and its ledger, for whoever shows results.

The ledger is one JSON object a line. What a site withheld, and NaN, is null there and None here. Unknown kinds of
line and unknown keys are passed over, so that an older report opens a newer ledger.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import InputError
from common.experiment import Experiment
from common.settings import load_yaml
from common.split import fold_of
from common.tasks import SpreadNumbers
from server.ledger_file import LEDGER, decode


class Line(BaseModel):
    """Base of what a run's files hold: immutable, other keys ignored, so that an older reader takes a newer file."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SiteCounts(Line):
    """Cases of one site by part of the split, cases refused by the recipe, body voxels behind its histogram."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    refused: int | None = None
    voxels: int | None = None


class StatisticsLine(Line):
    """HU statistics over the training cases of all sites."""

    kind: Literal["statistics"]
    step: int
    sites: dict[str, SiteCounts] = {}
    mean: float | None = None
    sd: float | None = None
    seconds: float | None = None


class Epoch(Line):
    """Mean training losses of one global epoch at one site."""

    epoch: int
    lr: float | None = None
    stage1: float | None = None
    stage2: float | None = None


class SiteRound(Line):
    """What one site reported of one round; `validation_dsc` is that of the model the round started from."""

    cases: int | None = None
    epochs: tuple[Epoch, ...] = ()
    validation_dsc: float | None = None
    seconds: float | None = None


class RoundLine(Line):
    """One finished round of one model."""

    kind: Literal["round"]
    step: int
    model: str
    round: int
    rounds: int
    sites: dict[str, SiteRound] = {}
    dropped: dict[str, str] = {}
    seconds: float | None = None

    @property
    def duration_s(self) -> float:
        """The round's duration; where the ledger has none, the slowest site's."""
        return (
            self.seconds if self.seconds is not None else max((s.seconds or 0 for s in self.sites.values()), default=0)
        )


class ModelLine(Line):
    """Which round's weights a training step kept, and their mean validation DSC over sites where it is known."""

    kind: Literal["model"]
    model: str
    round: int
    validation_dsc: float | None = None
    key: str | None = None
    """Of all that defines it; None: not known."""
    reused: str | None = None
    """The model that it is a copy of, after its run's name where that is another."""


class Spread(SpreadNumbers):
    """What the ledger holds of it; an older one has mean and SD alone."""

    model_config = Line.model_config


class SiteResult(Line):
    """One model at one site; `num_undefined` cases have no distances (one of the two masks is empty)."""

    withheld: str | None = None
    """Why the site sent nothing."""

    n: int | None = None
    num_undefined: int | None = None
    num_empty: int | None = None
    """Cases in which the model found nothing."""
    metrics: dict[str, Spread | None] = {}
    truth_metrics: dict[str, Spread | None] = {}
    """The same metrics against the phantoms' true masks instead of the contours."""


UNDEFINED = "undefined in every case"
"""Why there is no difference of two models that have no distance in common; nobody withholds anything."""


class ComparisonLine(Line):
    """Two models on the same cases, the first less the second, in the matrix's units."""

    first: str
    second: str
    site: str | None
    """None: over the cases of all `sites`."""
    metric: str
    sites: tuple[str, ...] = ()
    """Those whose cases these are."""
    n: int | None = None
    difference: float | None = None
    sd: float | None = None
    """Of the differences."""
    low: float | None = None
    """With `high` the t-test's 95 % interval of the difference."""
    high: float | None = None
    t: float | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    holm_p: float | None = None
    """`t_p` corrected for all pairs of the same metric and site in the table."""
    withheld: str | None = None
    """Why there is nothing."""

    def reversed(self) -> "ComparisonLine":
        """Returns the second less the first."""

        def negative(value: float | None) -> float | None:
            return None if value is None else -value

        turned = {"first": self.second, "second": self.first, "difference": negative(self.difference)}
        return self.model_copy(
            update=turned | {"low": negative(self.high), "high": negative(self.low), "t": negative(self.t)}
        )


class PictureLine(Line):
    """A picture that a site let go: of which case of the part, by which model, and how well that case came out."""

    file: str
    site: str
    model: str
    case: int
    dsc: float | None = None


class EvaluationLine(Line):
    """A cross-site matrix: model -> site -> result."""

    kind: Literal["evaluation"]
    step: int
    split: str = "test"
    matrix: dict[str, dict[str, SiteResult | None]] = {}
    comparisons: tuple[ComparisonLine, ...] = ()
    pictures: tuple[PictureLine | str, ...] = ()
    """An older ledger names the files alone."""
    seconds: float | None = None


class DrawnLine(Line):
    """A picture of a `pictures` step: what it shows of which case, by which models, and their DSC where it is told."""

    file: str
    site: str
    what: str
    models: tuple[str, ...] = ()
    case: int
    rank: str
    dsc: dict[str, float] = {}


class PicturesLine(Line):
    """What sites let be seen in a `pictures` step, and why the others sent none."""

    kind: Literal["pictures"]
    step: int
    pictures: tuple[DrawnLine, ...] = ()
    withheld: dict[str, str] = {}
    seconds: float | None = None


class EventLine(Line):
    """What befell a site between two rounds' lines, or the run itself."""

    kind: Literal["site", "restart"]
    time: str = ""
    why: str
    site: str | None = None
    event: str | None = None
    model: str | None = None
    round: int | None = None
    crashes: int = 1


class NoteLine(Line):
    """What whoever runs it should know, as that a strategy means nothing or a round is done again."""

    kind: Literal["note"]
    time: str = ""
    text: str
    model: str | None = None
    round: int | None = None


LedgerLine = StatisticsLine | RoundLine | ModelLine | EvaluationLine | PicturesLine | EventLine | NoteLine
LINES: dict[str, type[LedgerLine]] = {
    "site": EventLine,
    "restart": EventLine,
    "note": NoteLine,
    "statistics": StatisticsLine,
    "round": RoundLine,
    "model": ModelLine,
    "evaluation": EvaluationLine,
    "pictures": PicturesLine,
}


@dataclass(frozen=True)
class RunRecord:
    """All that a run folder says in words and numbers."""

    folder: Path
    experiment: Experiment
    statistics: StatisticsLine | None
    rounds: tuple[RoundLine, ...]
    """In the order of the ledger; a round that was done again counts once, as it was done last."""
    models: tuple[ModelLine, ...]
    evaluations: tuple[EvaluationLine, ...]
    events: tuple[EventLine | NoteLine, ...] = ()
    pictures: tuple[PicturesLine, ...] = ()
    """A step that was done again counts once, as it was done last."""

    @property
    def seconds(self) -> float:
        """Working time of all steps, pauses between them not counted."""
        asked = (self.statistics, *self.evaluations, *self.pictures)
        return sum(line.seconds or 0.0 for line in asked if line) + training_s(self.rounds)

    def rounds_of(self, step: int) -> tuple[RoundLine, ...]:
        """The rounds of one step, all its models."""
        return tuple(line for line in self.rounds if line.step == step)


def concurrent_rounds(rounds: Sequence[RoundLine]) -> list[list[RoundLine]]:
    """Returns the rounds in groups that ran at the same time: the same round of the same step and fold."""
    groups: dict[tuple[int, int, int], list[RoundLine]] = {}
    for line in rounds:
        groups.setdefault((line.step, fold_of(line.model), line.round), []).append(line)
    return list(groups.values())


def training_s(rounds: Sequence[RoundLine]) -> float:
    """Returns the seconds that the rounds took, those at the same time counted once."""
    return sum(max(line.duration_s for line in together) for together in concurrent_rounds(rounds))


def in_order(sites: Iterable[str], order: Sequence[str]) -> tuple[str, ...]:
    """Returns each of `sites` once, in the experiment's order; others after them."""
    named = dict.fromkeys(sites)
    return (*(site for site in order if site in named), *(site for site in named if site not in order))


def read_run(run_folder: Path) -> RunRecord:
    """Returns the record in `run_folder`.

    Raises:
        ConfigError: `experiment.yaml` is missing or not valid.
        InputError: `ledger.jsonl` is missing or a line of it is broken; the message names file and line.
    """
    experiment = load_yaml(run_folder / "experiment.yaml", Experiment)
    lines = tuple(_ledger_lines(run_folder / LEDGER))
    statistics = [line for line in lines if isinstance(line, StatisticsLine)]
    rounds = {(line.step, line.model, line.round): line for line in lines if isinstance(line, RoundLine)}
    return RunRecord(
        folder=run_folder,
        experiment=experiment,
        statistics=statistics[-1] if statistics else None,
        rounds=tuple(rounds.values()),
        models=tuple({line.model: line for line in lines if isinstance(line, ModelLine)}.values()),
        evaluations=tuple(line for line in lines if isinstance(line, EvaluationLine)),
        events=tuple(line for line in lines if isinstance(line, EventLine | NoteLine)),
        pictures=tuple({line.step: line for line in lines if isinstance(line, PicturesLine)}.values()),
    )


def _ledger_lines(path: Path) -> Iterator[LedgerLine]:
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a run that began") from error
    for number, line in enumerate(whole.split(b"\n"), 1):
        origin = f"{path}, line {number}"
        if line.strip() and (data := decode(line, origin))["kind"] in LINES:
            yield _validate(data, origin)


def _validate(data: dict[str, Any], origin: str) -> LedgerLine:
    try:
        return LINES[data["kind"]].model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{origin}: {key}: {fault['msg']}; remove the line and run the experiment again") from error
