"""What the coordinator accepts from a site, and one model of many: Flower's strategies over checked replies."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from common import wire
from common.checkpoint import Weights
from common.errors import ConfigError, WorkError
from common.tasks import TrainResult

STRATEGIES: dict[str, type[flower.FedAvg]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedadam": flower.FedAdam,
}
OPTIONS = {
    "fedavg": (),
    "fedavgm": ("server_learning_rate", "server_momentum"),
    "fedprox": ("proximal_mu",),
    "fedadam": ("eta", "eta_l", "beta_1", "beta_2", "tau"),
}
"""What an experiment may set: Flower's other arguments would sample sites or wait for them, which is ours to do."""
STATELESS = frozenset({"fedavg", "fedprox"})


def make_strategy(name: str, options: Mapping[str, float]) -> flower.FedAvg:
    """Returns Flower's strategy for any number of sites that we name ourselves.

    Raises:
        ConfigError: the strategy has no such option.
    """
    unknown = sorted(set(options) - set(OPTIONS[name]))
    if unknown:
        known = ", ".join(OPTIONS[name]) or "none"
        raise ConfigError(f"strategy_options: {unknown[0]!r} is no option of {name} (expected: {known}); remove it")
    return STRATEGIES[name](
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=wire.NUM_EXAMPLES,
        arrayrecord_key=wire.ARRAYS,
        configrecord_key=wire.CONFIG,
        **cast("dict[str, Any]", dict(options)),
    )


def refuse(message: Message, expected: Mapping[str, NDArray[Any]], most_cases: float = math.inf) -> str | None:
    """Returns why a training reply may not be aggregated, or None when it may.

    Checked: an error code, one set of arrays with the names, shapes and dtypes that were sent out, finite numbers,
    and a plausible case count: one that the result and the metrics agree on, and at most `most_cases`.
    """
    error = wire.read_error(message)
    if error is not None:
        return error
    records = list(message.content.array_records.values())
    if len(records) != 1 or not wire.is_packed(records[0]):
        return "other-names"
    reason = _refuse_arrays(records[0], expected)
    if reason is not None:
        return reason
    try:
        result = wire.read_result(message, TrainResult)
    except WorkError:
        return "other-result"
    plausible = _counts_agree(message, result) and result.num_examples <= most_cases
    return None if plausible else "other-count"


def _refuse_arrays(record: ArrayRecord, expected: Mapping[str, NDArray[Any]]) -> str | None:
    """Judges the values themselves: shape and dtype that a message states need not be those of its bytes."""
    try:
        arrays = wire.unpack(record)
    except (EOFError, OSError, TypeError, ValueError):
        return "not-readable"
    if set(arrays) != set(expected):
        return "other-names"
    for name, values in arrays.items():
        if values.shape != expected[name].shape:
            return f"other-shape {name}"
        if values.dtype not in (np.float32, np.float16):
            return "other-dtype"
        if not np.isfinite(values).all():
            return f"not-finite {name}"
    return None


def _counts_agree(message: Message, result: TrainResult) -> bool:
    metrics = message.content.metric_records.get(wire.METRICS)
    count = None if metrics is None else metrics.get(wire.NUM_EXAMPLES)
    return isinstance(count, int | float) and math.isfinite(count) and count == result.num_examples


def aggregate(strategy: flower.FedAvg, number: int, replies: Mapping[str, Message]) -> Weights:
    """Returns the aggregated weights in fp32; replies go in by site name, so the order of arrival does not matter."""
    accepted = [_in_fp32(replies[site]) for site in sorted(replies)]
    arrays, _ = strategy.aggregate_train(number, accepted)
    if arrays is None:
        raise WorkError(f"round {number}: the strategy made no model of {len(accepted)} replies; see the log")
    return wire.record_to_weights(arrays)


def _in_fp32(message: Message) -> Message:
    """The same reply with fp32 arrays and without the result: what the strategy reads, and no more."""
    content = message.content
    arrays: ArrayRecord = next(iter(content.array_records.values()))
    message.content = RecordDict(
        {
            wire.ARRAYS: wire.weights_to_record(wire.record_to_weights(arrays)),
            wire.METRICS: MetricRecord({wire.NUM_EXAMPLES: content.metric_records[wire.METRICS][wire.NUM_EXAMPLES]}),
        }
    )
    return message
