"""What a site's policy allows and what it makes of a result: plain rules over tasks, results, weights; no Flower.

`client/border.py` applies them to every message; nothing here looks at cases.
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import PolicyError
from common.layers import Layers
from common.metrics import CaseMetrics
from common.site_config import PolicyConfig
from common.tasks import (
    NORM,
    CompareTask,
    EvaluateResult,
    EvaluateTask,
    MetricSummary,
    ModelSummary,
    PictureResult,
    PictureTask,
    SiteTask,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

KINDS: dict[type[SiteTask], str] = {
    StatisticsTask: "statistics",
    TrainTask: "train",
    EvaluateTask: "evaluate",
    CompareTask: "evaluate",
    PictureTask: "evaluate",
}
"""The word in `policy.tasks` for each kind. Comparing tells more of what evaluating has measured: who allows one allows
the other; whether pictures leave, `share_pictures` says beside it."""
NO_PICTURES = "the site's policy lets no pictures go (share_pictures)"
METRICS = frozenset(each.name for each in fields(CaseMetrics))
DISTANCES = frozenset(name for name in METRICS if name.endswith("_mm"))
"""Metrics that are undefined where one of two masks is empty."""
DIAMETER = 2.0
"""One patient more or less can move a clipped update from any point of the ball to any other: by twice its radius."""


@dataclass(frozen=True)
class Done:
    """What a site has done already, by its audit log."""

    rounds: int = 0
    """Training rounds in the task's run."""
    epochs: int = 0
    """Epochs in the task's run."""
    noises: tuple[float, ...] = ()
    """The noise multiplier of every noised update that ever left, in any run."""


def admit(policy: PolicyConfig, task: SiteTask, done: Done, now: datetime) -> None:
    """Returns if the site may begin `task` at local time `now`.

    Raises:
        PolicyError: not this kind of task, no more rounds or epochs in this run, not at these hours, or its update
            would spend too much privacy.
    """
    kind = KINDS[type(task)]
    if kind not in policy.tasks:
        raise PolicyError.of("policy-task", f"policy.tasks: {kind} is not among {', '.join(policy.tasks) or 'none'}")
    if is_quiet(policy, now.time()):
        hours = ", ".join(policy.quiet_hours)
        raise PolicyError.of("policy-hours", f"policy.quiet_hours: {now:%H:%M} lies in {hours}; nothing is begun then")
    if isinstance(task, TrainTask):
        _admit_training(policy, task, done)


def _admit_training(policy: PolicyConfig, task: TrainTask, done: Done) -> None:
    if policy.max_rounds is not None and done.rounds + 1 > policy.max_rounds:
        raise PolicyError.of("policy-rounds", f"policy.max_rounds: this run has had its {policy.max_rounds} rounds")
    if policy.max_epochs is not None and done.epochs + task.local_epochs > policy.max_epochs:
        raise PolicyError.of(
            "policy-epochs",
            f"policy.max_epochs: {done.epochs} epochs done in this run, {task.local_epochs} more asked for; at most "
            f"{policy.max_epochs} are allowed",
        )
    admit_epsilon(policy, done.noises)


def admit_epsilon(policy: PolicyConfig, noises: tuple[float, ...]) -> None:
    """Returns if one more update, after those with `noises`, spends no more privacy than the policy gives.

    Raises:
        PolicyError: it would spend more.
    """
    if policy.max_epsilon is None:
        return
    after = epsilon((*noises, policy.noise_multiplier), policy.delta)
    if after > policy.max_epsilon:
        raise PolicyError.of(
            "policy-epsilon",
            f"policy.max_epsilon: update {len(noises) + 1} would make epsilon {after:.2f}; at most "
            f"{policy.max_epsilon:g} is allowed",
        )


def admit_disk(policy: PolicyConfig, used_bytes: int) -> None:
    """Returns if the site's work and state take no more than the policy gives it.

    Raises:
        PolicyError: they take more.
    """
    if policy.max_disk_gb is not None and used_bytes > policy.max_disk_gb * 1e9:
        raise PolicyError.of(
            "policy-disk",
            f"policy.max_disk_gb: work and state take {used_bytes / 1e9:.2f} GB of {policy.max_disk_gb:g}; remove what "
            "is not needed in work/cache, or raise the limit",
        )


def is_quiet(policy: PolicyConfig, moment: time) -> bool:
    """Returns whether no task is begun at this local time."""
    return any(_within(moment, hours) for hours in policy.quiet_hours)


def _within(moment: time, hours: str) -> bool:
    """Whether a time lies in `HH:MM-HH:MM`, the end left out; a span may cross midnight, and equal ends are all day."""
    start, end = (time.fromisoformat(text) for text in hours.split("-"))
    return start <= moment < end if start < end else moment >= start or moment < end


def epsilon(noises: Iterable[float], delta: float) -> float:
    """Returns the epsilon, at `delta`, of sending one noised update for each of `noises` (multiples of the clip norm).

    Renyi accounting by Opacus without subsampling. The neighbour is any other set of cases at this site, one patient
    more or less included, so an update may move by twice the clip norm. No updates: 0; one without noise: infinite.
    """
    from opacus.accountants import RDPAccountant  # imports torch

    accountant = RDPAccountant()
    for noise in noises:
        if noise == 0:
            return math.inf
        accountant.step(noise_multiplier=noise / DIAMETER, sample_rate=1.0)
    return float(accountant.get_epsilon(delta))


def keeping(policy: PolicyConfig, task: TrainTask) -> PolicyConfig:
    """Returns the policy with the layers that the task leaves at the site, beside those that it keeps itself."""
    return policy.model_copy(update={"local_layers": (*policy.local_layers, *task.local_layers)})


def local_names(policy: PolicyConfig, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Returns the names of the weights that never leave, in their order.

    A normalisation layer is known by its weight of one dimension; its bias goes with it.
    """
    patterns = [pattern for pattern in policy.local_layers if pattern != NORM]
    norms = _norm_layers(shapes) if NORM in policy.local_layers else set()
    return tuple(
        name
        for name in shapes
        if name.rpartition(".")[0] in norms or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def _norm_layers(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    return {
        name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 1
    }


@dataclass(frozen=True)
class Update:
    """What may leave of a trained model, and what was done to it."""

    layers: Layers
    norm: float
    """L2 norm of the update before clipping, over what leaves."""
    noise: float = 0.0
    """Multiple of the clip norm; 0: none."""
    local: tuple[str, ...] = ()
    is_changed: bool = False
    """Whether a rule took something out of it, or changed a number."""


def limit_update(
    policy: PolicyConfig, received: Layers, trained: Layers, random: np.random.Generator | None = None
) -> Update:
    """Returns the trained model without the local layers, its update clipped and noised as the policy says.

    Args:
        policy: the site's.
        received: what the coordinator sent, fp32.
        trained: what the training made of it: names and shapes of `received`, fp32.
        random: for the noise; None: seeded by the operating system.

    Raises:
        PolicyError: names, shapes or dtypes differ, or a number is not finite.
    """
    squares = _squares(received, trained)
    local = local_names(policy, received.shapes)
    leaving = trained.ordered([name for name in trained.shapes if name not in set(local)])
    norm = math.sqrt(sum(squares[name] for name in leaving.shapes))
    if policy.clip_norm is None:
        return Update(leaving, norm, local=local, is_changed=bool(local))
    scale = min(1.0, policy.clip_norm / norm) if norm else 1.0
    sd = policy.noise_multiplier * policy.clip_norm
    random = random or np.random.default_rng()
    moved = {name: _moved(received.array(name), leaving.array(name), scale, sd, random) for name in leaving.shapes}
    return Update(Layers.of(moved), norm, policy.noise_multiplier, local, is_changed=True)


def _squares(received: Layers, trained: Layers) -> dict[str, float]:
    """The squared L2 norm of each layer's step, in fp64; a number that is not finite shows in it."""
    if set(received.shapes) != set(trained.shapes):
        odd = sorted(set(received.shapes) ^ set(trained.shapes))
        raise PolicyError.of("policy-reply", f"reply: weight {odd[0]!r} is missing or was never sent here")
    squares = {}
    for name, shape in trained.shapes.items():
        if shape != received.shapes[name] or trained.dtype != received.dtype:
            raise PolicyError.of(
                "policy-reply", f"reply: weight {name} is {trained.dtype}{shape}, unlike what was sent"
            )
        squares[name] = sum(
            _square(received.part(name, part), trained.part(name, part)) for part in trained.parts(name)
        )
        if not math.isfinite(squares[name]):
            raise PolicyError.of("policy-reply", f"reply: weight {name} holds NaN or infinity")
    return squares


def _square(start: NDArray[Any], end: NDArray[Any]) -> float:
    step = np.subtract(end, start, dtype=np.float64)
    return float(step @ step)


def _moved(
    start: NDArray[np.float32], end: NDArray[np.float32], scale: float, sd: float, random: np.random.Generator
) -> NDArray[np.float32]:
    step = (np.asarray(end, np.float64) - start) * scale
    noise = random.normal(0.0, sd, step.shape) if sd else 0.0
    return (start + step + noise).astype(np.float32)


@dataclass
class Withheld:
    """What a rule took out of a result, in words for the site's own log."""

    what: list[str] = field(default_factory=list)


def limit_training(policy: PolicyConfig, result: TrainResult, update: Update, told: Withheld) -> TrainResult:
    """Returns a training result with the names of the local weights, and without a DSC over too few cases."""
    score = result.validation_dsc
    if score is not None and result.num_validated < policy.min_cases:
        told.what.append(f"validation DSC of {result.num_validated} cases")
        score = None
    return result.model_copy(update={"validation_dsc": score, "local_layers": update.local})


def limit_evaluation(
    policy: PolicyConfig, task: EvaluateTask, result: EvaluateResult, told: Withheld
) -> EvaluateResult:
    """Returns an evaluation result of the task's models alone, with nothing that rests on too few cases.

    Raises:
        PolicyError: it holds another model or an unknown metric, which could carry words out.
    """
    odd = sorted(set(result.summaries) - set(task.models))
    if odd:
        raise PolicyError.of("policy-reply", f"reply: tells of {odd[0]!r}, which was not asked for")
    few = result.withheld is not None or any(each.n < policy.min_cases for each in result.summaries.values())
    if few:
        told.what.append(f"metrics of fewer than {policy.min_cases} cases")
        reason = f"fewer cases than the site's min_cases {policy.min_cases}"
        return EvaluateResult(summaries={}, withheld=reason, seconds=result.seconds)
    summaries = {name: _limit_summary(policy, each, told) for name, each in result.summaries.items()}
    return result.model_copy(update={"summaries": summaries})


def _limit_summary(policy: PolicyConfig, summary: ModelSummary, told: Withheld) -> ModelSummary:
    num_defined = summary.n - summary.num_undefined
    kinds = {"metrics": summary.metrics, "truth_metrics": summary.truth_metrics}
    return summary.model_copy(
        update={kind: _limit_metrics(policy, metrics, num_defined, told) for kind, metrics in kinds.items()}
    )


def _limit_metrics(
    policy: PolicyConfig, values: Mapping[str, MetricSummary], num_defined: int, told: Withheld
) -> dict[str, MetricSummary]:
    odd = sorted(set(values) - METRICS)
    if odd:
        raise PolicyError.of("policy-reply", f"reply: metric {odd[0]!r} is unknown to this release")
    metrics = dict(values)
    if num_defined < policy.min_cases:
        for name in DISTANCES & set(metrics):
            if metrics[name] != MetricSummary(mean=None, sd=None):
                told.what.append(f"{name} of {num_defined} cases")
                metrics[name] = MetricSummary(mean=None, sd=None)
    return metrics


def limit_pictures(policy: PolicyConfig, task: PictureTask, result: PictureResult, told: Withheld) -> PictureResult:
    """Returns what is told of pictures, and of which the policy lets none go where it says why.

    Raises:
        PolicyError: it tells of a model, a picture or a case that was not asked for, or of one twice.
    """
    why = NO_PICTURES if not policy.share_pictures else None
    if why is None and result.n < policy.min_cases:
        why = f"fewer cases than the site's min_cases {policy.min_cases}"
    if why or result.withheld:
        if result.drawings:
            told.what.append(f"{len(result.drawings)} pictures")
        return PictureResult(n=result.n, withheld=why or "the site's policy", seconds=result.seconds)
    asked = {(what, rank) for what in task.what for rank in task.cases}
    shown = [(each.what, each.rank) for each in result.drawings]
    odd_models = {model for each in result.drawings for model in each.dsc} - set(task.models)
    if len(set(shown)) < len(shown) or not set(shown) <= asked or odd_models:
        raise PolicyError.of("policy-reply", "reply: tells of a picture or a model that was not asked for")
    if any(each.dsc for each in result.drawings) and not policy.share_case_metrics:
        told.what.append("DSC of single cases")
        bare = tuple(each.model_copy(update={"dsc": {}}) for each in result.drawings)
        return result.model_copy(update={"drawings": bare})
    return result
