"""What `deploy.scale` reckons with: costs as they were measured, each with the command that measures it, and limits.

Costs are of one processor of the machine that they were measured on (AMD EPYC, two cores that had other work too).
"""

from dataclasses import dataclass, field, fields
from typing import Any

CALLS = "tests/benchmarks/calls.py"
ROUNDS = "tests/benchmarks/rounds.py"
AGGREGATION = "tests/benchmarks/aggregation.py"
LINKS = "tests/benchmarks/links.py"


def _of(value: float, what: str, source: str) -> Any:
    return field(default=value, metadata={"what": what, "source": source})


@dataclass(frozen=True)
class Costs:
    """Constants that machines and releases change."""

    look_ms: float = _of(7.0, "SuperLink: a node looks for a message, or says that it is there", CALLS)
    question_ms: float = _of(143.0, "SuperLink: a site is asked how far it is, and answers", CALLS)
    app_look_ms: float = _of(9.6, "SuperLink: the ServerApp looks for replies", CALLS)
    app_look_ms_per_site: float = _of(0.058, "SuperLink: the same, for each site that is waited for", CALLS)
    superlink_ms_per_mb: float = _of(3.9, "SuperLink: a MB to or from a site", ROUNDS)
    gateway_ms_per_mb: float = _of(1.1, "gateway: a MB to or from a site", ROUNDS)
    app_ms_per_mb: float = _of(3.2, "ServerApp: a MB of a reply is received, judged and put on disk", ROUNDS)
    check_ms: float = _of(5.0, "ServerApp: a site's update against the others, a million numbers", AGGREGATION)
    check_ms_per_site: float = _of(0.022, "ServerApp: the same, for each other site", AGGREGATION)
    mean_ms: float = _of(3.0, "ServerApp: a site in the mean, a million numbers", AGGREGATION)
    round_s: float = _of(1.4, "all: a round of no bytes and no training", ROUNDS)
    superlink_mb: float = _of(160.0, "SuperLink: memory without transfers", ROUNDS)
    download_mb_per_mb: float = _of(0.9, "SuperLink: memory for a MB of the parts that go to sites", CALLS)
    app_mb: float = _of(270.0, "ServerApp: memory without a model", ROUNDS)
    app_mb_per_mb: float = _of(3.4, "ServerApp: memory for a MB of the model in fp32", ROUNDS)
    overhead_100: float = _of(18.0, "what a transfer takes beside its bytes, 100 Mbit/s and 50 ms", LINKS)
    overhead_20: float = _of(19.0, "the same, 20 Mbit/s and 100 ms", LINKS)
    overhead_4: float = _of(24.0, "the same, 4 Mbit/s and 300 ms", LINKS)


@dataclass(frozen=True)
class Limits:
    """What the code says; a test holds each to it."""

    node_look_s: float = 3.0
    """Between two looks of a node that is idle or at work (`client.node_gate.POLL_S`)."""
    sign_of_life_s: float = 16.0
    """Flower sends one after 0.8 of what we set (`client.node.HEARTBEAT_S`)."""
    question_s: float = 15.0
    question_site_s: float = 1.5
    """Between two questions, at least and for each site (`server.waiting`)."""
    app_look_s: float = 2.0
    """Between two looks of the ServerApp, at last (`server.sites.POLL_MAX_S`)."""
    parts: int = 4
    """Under way at a site (`client.transfers.AT_ONCE`)."""
    part_mb: float = 5.243
    """Flower's chunk."""
    carrying: int = 256
    """Parts under way that nginx lets through (`server/templates/nginx.conf`)."""
    carrying_from_one: int = 64
    """The same, from one address."""
    connections: int = 1024
    """Of nginx, to either side."""
    round_h: float = 12.0
    """After which Flower drops a message (`common.experiment.RoundConfig.timeout_s`)."""


def cost_table(costs: Costs) -> str:
    """Returns the costs as Markdown."""
    rows = [
        f"| {each.metadata['what']} | {getattr(costs, each.name):g} {_unit(each.name)} | `{each.metadata['source']}` |"
        for each in fields(costs)
    ]
    return "\n".join(["| what | cost | measured by |", "|---|---:|---|", *rows])


def _unit(name: str) -> str:
    """By the name of a cost, which ends in its unit, or in what it is for each of."""
    words = name.partition("_per_")[0].split("_")
    return "%" if words[0] == "overhead" else {"mb": "MB"}.get(words[-1], words[-1])


COSTS, LIMITS = Costs(), Limits()
