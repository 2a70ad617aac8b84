"""What the coordinator accepts from a site: a reply by itself, and an update beside those of the others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from common import wire
from common.errors import WorkError
from common.layers import Layers
from common.tasks import TrainResult, TrainTask


def accept(
    message: Message, sent: Mapping[str, NDArray[Any]], task: TrainTask, most_cases: float = math.inf
) -> tuple[Layers, TrainResult] | str:
    """Returns a training reply's model in fp32, in the order of `sent`, and its result; or why it may not be used.

    Checked: an error code, one set of arrays with the names, shapes and dtypes that were sent out, but for the layers
    that the site says it keeps to itself, finite numbers, the task's own model and round, and a plausible case count:
    one that the result and the metrics agree on, and at most `most_cases`.
    """
    error = wire.read_error(message)
    if error is not None:
        return error
    records = list(wire.records(message.content, ArrayRecord).values())
    if len(records) != 1 or not wire.is_packed(records[0]):
        return "other-names"
    result = _result(message)
    local = set(result.local_layers if result else ())
    if not local <= set(sent) or local == set(sent):
        return "other-names"
    expected = {name: value for name, value in sent.items() if name not in local}
    came = _accept_layers(records[0], expected, task.transport)
    if isinstance(came, str):
        return came
    trained = wire.trained_layers(came, Layers.of(expected), task.transport)
    return _refuse_result(message, result, task, most_cases) or (trained, result)  # type: ignore[return-value]


def _result(message: Message) -> TrainResult | None:
    try:
        return wire.read_result(message, TrainResult)
    except WorkError:
        return None


def _refuse_result(message: Message, result: TrainResult | None, task: TrainTask, most_cases: float) -> str | None:
    if result is None:
        return "other-result"
    if (result.model, result.round) != (task.model, task.round):
        return "other-round"
    return None if _counts_agree(message, result) and result.num_examples <= most_cases else "other-count"


def _accept_layers(record: ArrayRecord, expected: Mapping[str, NDArray[Any]], transport: str) -> Layers | str:
    """Judges the values themselves: shape and dtype that a message states need not be those of its bytes."""
    try:
        layers = wire.unpacked(record)
    except wire.UNREADABLE:
        return "not-readable"
    if set(layers.shapes) != set(expected):
        return "other-names"
    for name, shape in layers.shapes.items():
        if shape != expected[name].shape:
            return f"other-shape {name}"
    if layers.dtype != wire.DTYPES[transport]:
        return "other-dtype"
    spoilt = layers.not_finite()
    return layers.ordered(expected) if spoilt is None else f"not-finite {spoilt}"


def _counts_agree(message: Message, result: TrainResult) -> bool:
    metrics = wire.records(message.content, MetricRecord).get(wire.METRICS)
    count = None if metrics is None else metrics.get(wire.NUM_EXAMPLES)
    return isinstance(count, int | float) and math.isfinite(count) and count == result.num_examples


def judge(
    sites: Sequence[str],
    gram: NDArray[np.float64],
    earlier_norms: Sequence[float] = (),
    max_norm_ratio: float | None = None,
    min_cosine: float | None = None,
) -> dict[str, str]:
    """Returns why an update may not be used beside the others, by site.

    `norm`: its L2 norm is more than `max_norm_ratio` times the median of this round's and of `earlier_norms`. So one of
    two sites can be told only once a round has gone well.
    `opposed`: it points away from most of the others, three sites or more: its cosine with them is below `min_cosine`,
    as that of an update with its sign turned. Where that is so of half the sites or more, none of them is in the wrong:
    near its optimum a federation's updates add up to nothing.

    Args:
        sites: whose updates.
        gram: scalar products of all pairs of them.
        earlier_norms: of the updates that the round before accepted.
        max_norm_ratio: None: norms are not compared.
        min_cosine: None: directions are not compared.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    typical = float(np.median([*norms, *earlier_norms]))
    reasons = {}
    if max_norm_ratio is not None and typical > 0 and len(norms) + len(earlier_norms) > 1:
        reasons = {site: "norm" for site, norm in zip(sites, norms, strict=True) if norm > max_norm_ratio * typical}
    kept = [index for index, site in enumerate(sites) if site not in reasons and norms[index] > 0]
    if min_cosine is not None and len(kept) > 2:
        cosines = gram[np.ix_(kept, kept)] / np.outer(norms[kept], norms[kept])
        against = (cosines < min_cosine).sum(axis=1)  # itself is never counted: its cosine is 1
        opposed = [index for index, num in zip(kept, against, strict=True) if 2 * num > len(kept) - 1]
        if 2 * len(opposed) < len(kept):
            reasons |= {sites[index]: "opposed" for index in opposed}
    return reasons
