"""The strategies by name: how the sites' models become one, and what a server optimiser makes of that.

The mean and the robust rules are ours, over replies that lie on disk (server/combine.py). What a site is told to do,
and the optimisers of FedAvgM, FedAdam and FedYogi, are Flower's own: they get the mean as if one site had sent it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from common import wire
from common.checkpoint import Weights
from common.errors import ConfigError, WorkError
from common.tasks import NORM
from server.combine import combined, krum_order, mean, median, num_trimmed, trimmed_mean
from server.spool import Update

Gram = Callable[[], NDArray[np.float64]]
"""The scalar products of the updates, when they are asked for."""
STRATEGIES: dict[str, type[flower.FedAvg]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
}
"""Of Flower; the robust rules go by FedAvg but for the mean."""
ADAPTIVE = ("eta", "eta_l", "beta_1", "beta_2", "tau")
OPTIONS = {
    "fedavg": (),
    "fedavgm": ("server_learning_rate", "server_momentum"),
    "fedprox": ("proximal_mu",),
    "fedadam": ADAPTIVE,
    "fedyogi": ADAPTIVE,
    "fedbn": (),
    "cyclic": (),
    "trimmed-mean": ("beta",),
    "median": (),
    "krum": ("num_malicious",),
    "multikrum": ("num_malicious", "num_selected"),
}
"""What an experiment may set: Flower's other arguments would sample sites or wait for them, which is ours to do."""
BETA, NUM_MALICIOUS = 0.2, 1
"""Where an experiment does not say."""
MOMENTUM = "momentum"
MOMENTS = ("m_t", "v_t")


@dataclass
class Strategy:
    """One model's strategy, with what it keeps between rounds."""

    name: str
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError if the strategy has no such option, or one is out of range."""
        _check_options(self.name, self.options)
        kind = STRATEGIES.get(self.name, flower.FedAvg)
        options = dict(self.options) if self.name in STRATEGIES else {}
        self.flower = kind(
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            weighted_by_key=wire.NUM_EXAMPLES,
            arrayrecord_key=wire.ARRAYS,
            configrecord_key=wire.CONFIG,
            **cast("dict[str, Any]", options),
        )

    @property
    def _optimises(self) -> bool:
        """Whether a server optimiser makes the model of the mean."""
        return isinstance(self.flower, flower.FedAvgM) or hasattr(self.flower, MOMENTS[0])

    @property
    def local_layers(self) -> tuple[str, ...]:
        """What stays at each site between rounds: with FedBN the normalisation layers (arXiv 2102.07623)."""
        return (NORM,) if self.name == "fedbn" else ()

    @property
    def goes_round(self) -> bool:
        """Whether the model goes from site to site, instead of to all at once (server/relay.py)."""
        return self.name == "cyclic"

    @property
    def keeps_state(self) -> bool:
        """Whether a round depends on more of the rounds before than their model."""
        if isinstance(self.flower, flower.FedAvgM):
            return self.flower.server_momentum > 0
        return self._optimises

    def begin(self, sent: Weights) -> None:
        """Takes note of what a round has sent out, as Flower's own `configure_train` does with what it is given."""
        if isinstance(self.flower, flower.FedAvgM):
            self.flower.current_arrays = wire.weights_to_record(_by_name(sent))
        elif self._optimises:
            self.flower.current_arrays = dict(sent)  # type: ignore[attr-defined]

    def combine(self, number: int, updates: Sequence[Update], sent: Weights, gram: Gram) -> Weights:
        """Returns the model that round `number` makes of the sites' updates (one at least), in fp32."""
        made = self._combine(updates, sent, gram)
        return self._optimise(number, made) if self._optimises else made

    def _combine(self, updates: Sequence[Update], sent: Weights, gram: Gram) -> Weights:
        match self.name:
            case "median":
                return combined(updates, sent, median)
            case "trimmed-mean":
                return combined(updates, sent, trimmed_mean(self.options.get("beta", BETA)))
            case "krum" | "multikrum":
                order = krum_order(gram(), self._num_malicious)
                kept = sorted(order[: self._num_selected(len(updates))])
                return combined([updates[index] for index in kept], sent, mean)
            case _:
                return combined(updates, sent, mean)

    @property
    def _num_malicious(self) -> int:
        return int(self.options.get("num_malicious", NUM_MALICIOUS))

    def _num_selected(self, num_sites: int) -> int:
        """Of MultiKrum: as many as are thought honest, where the experiment does not say."""
        if self.name == "krum":
            return 1
        return int(self.options.get("num_selected", max(1, num_sites - self._num_malicious)))

    def _optimise(self, number: int, made: Weights) -> Weights:
        metrics = MetricRecord({wire.NUM_EXAMPLES: 1})
        content = RecordDict({wire.ARRAYS: wire.weights_to_record(_by_name(made)), wire.METRICS: metrics})
        asked = Message(RecordDict(), dst_node_id=1, message_type=wire.TRAIN)
        arrays, _ = self.flower.aggregate_train(number, [Message(content, reply_to=asked)])
        if arrays is None:
            raise WorkError(f"round {number}: {self.name} made no model; see the log")
        optimised = wire.record_to_weights(arrays)
        return {name: optimised[name] for name in made}

    def state(self) -> Weights:
        """Returns the arrays that the strategy keeps between rounds; none for most."""
        kept: Weights = {}
        for number, array in enumerate(getattr(self.flower, "momentum_vector", None) or ()):
            kept[f"{MOMENTUM}.{number}"] = array
        for moment in MOMENTS:
            kept |= {f"{moment}.{name}": array for name, array in (getattr(self.flower, moment, None) or {}).items()}
        return kept

    def restore(self, state: Weights) -> None:
        """Takes up again what `state` returned after the last round."""
        if isinstance(self.flower, flower.FedAvgM):
            vector = {int(name.split(".")[1]): array for name, array in state.items()}
            self.flower.momentum_vector = [vector[number] for number in sorted(vector)] or None
        elif self._optimises:
            for moment in MOMENTS:
                prefix = f"{moment}."
                found = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
                setattr(self.flower, moment, found or None)

    def cautions(self, quorum: int) -> list[str]:
        """Returns a sentence for each reason why the rule defends nothing over a round of no more than the quorum."""
        found = []
        match self.name:
            case "median" if quorum < 3:
                found.append(f"median: of {quorum} sites it is the mean; 3 are needed to outvote a bad one")
            case "trimmed-mean" if not num_trimmed(self.options.get("beta", BETA), quorum):
                found.append(
                    f"trimmed-mean: beta {self.options.get('beta', BETA):g} leaves out none of {quorum} sites, so "
                    "it is the plain mean; one is left out at either end of the values from 3 sites and beta 0.34 on"
                )
            case "krum" | "multikrum" if quorum < (needed := 2 * self._num_malicious + 3):
                found.append(
                    f"{self.name}: with num_malicious {self._num_malicious} it means something from {needed} sites on "
                    f"(2 f + 3, arXiv 1703.02757); a round may close with {quorum}, and a bad site can be the one that "
                    "is chosen"
                )
        most = max(1, quorum - self._num_malicious)
        if self.name == "multikrum" and (selected := self._num_selected(quorum)) > most:
            found.append(
                f"multikrum: num_selected {selected} of {quorum} sites, with num_malicious {self._num_malicious} among "
                f"them, lets bad ones in; {most} at most, or leave num_selected out"
            )
        return found


def _by_name(weights: Weights) -> Weights:
    """In one order, however a file has them: FedAvgM knows layers by their place."""
    return dict(sorted(weights.items()))


def _check_options(name: str, options: Mapping[str, float]) -> None:
    unknown = sorted(set(options) - set(OPTIONS[name]))
    if unknown:
        known = ", ".join(OPTIONS[name]) or "none"
        raise ConfigError(f"strategy_options: {unknown[0]!r} is no option of {name} (expected: {known}); remove it")
    if not 0 <= options.get("beta", BETA) < 0.5:
        raise ConfigError(f"strategy_options: beta {options['beta']:g}; expected from 0 to less than 0.5")
    for option, least in (("num_malicious", 0), ("num_selected", 1)):
        value = options.get(option, least)
        if value < least or value != int(value):
            raise ConfigError(f"strategy_options: {option} {value:g}; expected a whole number from {least} on")
