"""What the coordinator accepts from a site, and one model of many: Flower's strategies over checked replies."""

import math
from collections.abc import Mapping, Sequence
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

    Checked: an error code, one set of arrays with the names, shapes and dtypes that were sent out, but for the layers
    that the site says it keeps to itself, finite numbers, and a plausible case count: one that the result and the
    metrics agree on, and at most `most_cases`.
    """
    error = wire.read_error(message)
    if error is not None:
        return error
    records = list(message.content.array_records.values())
    if len(records) != 1 or not wire.is_packed(records[0]):
        return "other-names"
    result = _result(message)
    local = set(result.local_layers if result else ())
    if not local <= set(expected) or local == set(expected):
        return "other-names"
    reason = _refuse_arrays(records[0], {name: value for name, value in expected.items() if name not in local})
    if reason is not None:
        return reason
    if result is None:
        return "other-result"
    plausible = _counts_agree(message, result) and result.num_examples <= most_cases
    return None if plausible else "other-count"


def _result(message: Message) -> TrainResult | None:
    try:
        return wire.read_result(message, TrainResult)
    except WorkError:
        return None


def _refuse_arrays(record: ArrayRecord, expected: Mapping[str, NDArray[Any]]) -> str | None:
    """Judges the values themselves: shape and dtype that a message states need not be those of its bytes."""
    try:
        arrays = wire.unpack(record)
    except wire.UNREADABLE:
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


def aggregate(strategy: flower.FedAvg, number: int, replies: Mapping[str, Message], sent: Weights) -> Weights:
    """Returns the aggregated weights in fp32; replies go in by site name, so the order of arrival does not matter.

    A layer that some sites keep to themselves is aggregated over the others; one that all keep stays as it was `sent`.
    """
    ordered = [replies[site] for site in sorted(replies)]
    kept_back = _kept_back(ordered, sent)
    accepted = [_in_fp32(reply, kept_back, sent) for reply in ordered]
    arrays, _ = strategy.aggregate_train(number, accepted)
    if arrays is None:
        raise WorkError(f"round {number}: the strategy made no model of {len(accepted)} replies; see the log")
    return wire.record_to_weights(arrays)


def _kept_back(replies: Sequence[Message], sent: Weights) -> Weights:
    """What stands for the layers that some sites keep: the mean of those who sent them, weighted by cases.

    That changes no weighted mean: what is put in is that mean.
    """
    names = {name for reply in replies for name in wire.read_result(reply, TrainResult).local_layers}
    if not names:
        return {}
    totals = {name: (np.zeros(sent[name].shape), 0.0) for name in names}
    for reply in replies:
        weights, cases = _weights(reply), _num_examples(reply)
        for name in names & set(weights):
            total, num = totals[name]
            totals[name] = total + cases * weights[name], num + cases
    return {name: np.asarray(total / num, np.float32) if num else sent[name] for name, (total, num) in totals.items()}


def _weights(message: Message) -> Weights:
    return wire.record_to_weights(next(iter(message.content.array_records.values())))


def _num_examples(message: Message) -> float:
    return float(cast("float", message.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES]))


def _in_fp32(message: Message, kept_back: Weights, sent: Weights) -> Message:
    """The same reply with whole fp32 arrays, in the order sent, and without the result: what the strategy reads."""
    weights = kept_back | _weights(message)
    arrays = wire.weights_to_record({name: weights[name] for name in sent})
    metrics = MetricRecord({wire.NUM_EXAMPLES: message.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES]})
    message.content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: metrics})
    return message
