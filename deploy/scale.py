"""What one round of many hospitals needs of a coordinator, from measured costs: the tables of docs/scale.md.

A simulation of flows: every site downloads the model, trains and uploads it; sites share the coordinator's line, and
the processor that its SuperLink is (one Python process), each as fast as its own line lets it. Time goes from one end
of a transfer or training to the next.

`python -m deploy.scale` prints the tables, `python -m deploy.scale --write docs/scale.md` puts them there.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from deploy.scale_costs import COSTS, LIMITS, Costs, Limits, cost_table

SITES = (10, 100, 1000)
MODEL_MB, MODEL_MILLIONS = 954.0, 238.6
"""The default cascade in fp32 (910 MiB)."""
TRANSPORTS = {"fp32": 1.0, "fp16": 0.5}
"""Share of the model in fp32 that travels."""
MIX = ((100.0, 0.5), (20.0, 0.3), (4.0, 0.2))
"""Mbit/s of a hospital's line, each way, and the share of hospitals that have it: an assumption."""
COORDINATOR_MBIT = 1000.0
TRAINING_H, SPREAD = 2.0, 0.3
"""The median time that a site trains in a round, and the standard deviation of its logarithm: an assumption."""
NUM_KEPT = 4
"""Models on the coordinator's disk beside the replies: the last two rounds', the best, and the one on its way."""
DOWN, AT_WORK, UP, DONE = range(4)
BEGIN, END = "<!-- begin: python -m deploy.scale -->\n", "<!-- end -->\n"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """A round."""

    sites: int
    transport: str = "fp32"
    line_mbit: float = COORDINATOR_MBIT
    training_h: float = TRAINING_H

    @property
    def sent_mb(self) -> float:
        """What travels to a site, and back."""
        return MODEL_MB * TRANSPORTS[self.transport]


@dataclass(frozen=True)
class Outcome:
    """What a round took; Mbit/s, processors, sites and GB at their most."""

    hours: float
    down_mbit: float = 0.0
    up_mbit: float = 0.0
    superlink: float = 0.0
    """Processors that it would need."""
    transferring: int = 0
    uploading: int = 0
    end_h: float = 0.0
    """From the last reply to the new model."""
    memory_gb: float = 0.0
    disk_gb: float = 0.0


def simulate(plan: Plan, costs: Costs, limits: Limits) -> Outcome:
    """Plays a round; where calls alone take more than the SuperLink's processor, as if it had another one for them."""
    caps = np.array(lines(plan.sites, costs)) / 8
    work_s = np.array(training_s(plan))
    left, phase = np.full(plan.sites, plan.sent_mb), np.full(plan.sites, DOWN)
    calls = calls_processors(plan.sites, costs, limits)
    now, seen, arrivals = 0.0, Outcome(0.0), []
    while (phase != DONE).any():
        wanted = [shared(np.where(phase == way, caps, 0.0), plan.line_mbit / 8) for way in (DOWN, UP)]
        mb_s = float(wanted[0].sum() + wanted[1].sum())
        busy, gateway = mb_s * costs.superlink_ms_per_mb / 1e3, mb_s * costs.gateway_ms_per_mb / 1e3
        left_over = 1.0 - calls if calls < 1.0 else 1.0
        rates = (wanted[0] + wanted[1]) * min(1.0, left_over / max(busy, 1e-9), 1.0 / max(gateway, 1e-9))
        seen = _most(seen, phase, rates, calls + busy)
        ends_s = np.where(phase == AT_WORK, work_s, left / np.maximum(rates, 1e-12))
        step_s = float(ends_s[phase != DONE].min())
        now += step_s
        moved = np.where(phase == AT_WORK, 0.0, rates * step_s)
        left, work_s = left - moved, work_s - np.where(phase == AT_WORK, step_s, 0.0)
        over = (phase != DONE) & (ends_s <= step_s * (1 + 1e-9))
        arrivals += [now] * int((over & (phase == UP)).sum())
        phase = phase + over
        left = np.where(over, plan.sent_mb, left)
    return _closed(plan, costs, limits, arrivals, seen)


def _most(seen: Outcome, phase: NDArray[np.int_], rates: Floats, processors: float) -> Outcome:
    down, up = (float(rates[phase == way].sum()) * 8 for way in (DOWN, UP))
    return replace(
        seen,
        down_mbit=max(seen.down_mbit, down),
        up_mbit=max(seen.up_mbit, up),
        superlink=max(seen.superlink, processors),
        transferring=max(seen.transferring, int(((phase == DOWN) | (phase == UP)).sum())),
        uploading=max(seen.uploading, int((phase == UP).sum())),
    )


def _closed(plan: Plan, costs: Costs, limits: Limits, arrivals: Sequence[float], seen: Outcome) -> Outcome:
    """The ServerApp takes one reply after another, then makes the model."""
    take_s = plan.sent_mb * costs.app_ms_per_mb / 1e3
    taken = list(accumulate(arrivals, lambda free, came: max(free, came) + take_s, initial=0.0))[1:]
    waiting = max(sum(done > came for done in taken[: index + 1]) for index, came in enumerate(arrivals))
    a_number_ms = costs.check_ms + costs.check_ms_per_site * plan.sites + costs.mean_ms
    end_s = taken[-1] - arrivals[-1] + plan.sites * MODEL_MILLIONS * a_number_ms / 1e3 + costs.round_s
    parts = min(limits.carrying, limits.parts * seen.transferring) * limits.part_mb
    memory_mb = costs.superlink_mb + parts * costs.download_mb_per_mb + costs.app_mb + MODEL_MB * costs.app_mb_per_mb
    spooled_mb = (plan.sites + NUM_KEPT) * MODEL_MB
    disk_mb = spooled_mb + min(plan.sites, waiting + seen.uploading) * plan.sent_mb
    hours = (arrivals[-1] + end_s) / 3600
    return replace(seen, hours=hours, end_h=end_s / 3600, memory_gb=memory_mb / 1e3, disk_gb=disk_mb / 1e3)


def lines(num_sites: int, costs: Costs) -> list[float]:
    """What each site's line carries of a model in Mbit/s."""
    overhead = {100.0: costs.overhead_100, 20.0: costs.overhead_20, 4.0: costs.overhead_4}
    ends = accumulate(share for _, share in MIX)
    bounds = [
        (round(end * num_sites), mbit / (1 + overhead[mbit] / 100)) for end, (mbit, _) in zip(ends, MIX, strict=True)
    ]
    return [next(mbit for end, mbit in bounds if number < end) for number in range(num_sites)]


def training_s(plan: Plan) -> list[float]:
    """How long each site trains: evenly spread over a log-normal distribution, whoever has which line."""
    quantiles = [(number + 0.5) / plan.sites for number in range(plan.sites)]
    times = [plan.training_h * 3600 * float(np.exp(SPREAD * NormalDist().inv_cdf(each))) for each in quantiles]
    random.Random(1).shuffle(times)
    return times


def shared(caps: Floats, total: float) -> Floats:
    """What each flow gets of `total` where all get the same, but none more than its cap (max-min fair)."""
    if caps.sum() <= total:
        return caps
    ordered = np.sort(caps)
    spare = total - np.concatenate([[0.0], ordered.cumsum()[:-1]])
    levels = spare / np.arange(caps.size, 0, -1)
    level = float(levels[np.argmax(levels <= ordered)])
    return np.minimum(caps, level)


def calls_processors(num_sites: int, costs: Costs, limits: Limits) -> float:
    """Processors of the SuperLink that calls alone need while all sites train."""
    app_look_ms = costs.app_look_ms + costs.app_look_ms_per_site * num_sites
    a_site_ms = sum(part for part, _ in site_calls(num_sites, costs, limits))
    return num_sites * a_site_ms / 1e3 + app_look_ms / limits.app_look_s / 1e3


def site_calls(num_sites: int, costs: Costs, limits: Limits) -> list[tuple[float, str]]:
    """Milliseconds a second of the SuperLink for one site at work, and for what."""
    question_s = max(limits.question_s, limits.question_site_s * num_sites)
    return [
        (costs.look_ms / limits.node_look_s, "looks for a message"),
        (costs.look_ms / limits.sign_of_life_s, "signs of life"),
        (costs.question_ms / question_s, "questions how far it is"),
    ]


def round_table(costs: Costs, limits: Limits) -> str:
    """Returns a row for each number of sites and transport."""
    rows = [
        "| hospitals | transport | GB each way | hours a round | without training | at the end | down, Mbit/s | "
        "up, Mbit/s | SuperLink, processors | memory, GB | disk, GB |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for num_sites in SITES:
        for transport in TRANSPORTS:
            plan = Plan(num_sites, transport)
            whole, bare = (simulate(each, costs, limits) for each in (plan, replace(plan, training_h=0.0)))
            rows.append(
                f"| {num_sites} | {transport} | {num_sites * plan.sent_mb / 1e3:,.0f} | {whole.hours:.1f} | "
                f"{bare.hours:.1f} | {whole.end_h:.2f} | {whole.down_mbit:.0f} | {whole.up_mbit:.0f} | "
                f"{whole.superlink:.2f} | {whole.memory_gb:.1f} | {whole.disk_gb:.0f} |"
            )
    return "\n".join(rows)


def limit_table(costs: Costs, limits: Limits) -> str:
    """Returns what gives out at how many sites, the least first."""
    found = sorted(reached(costs, limits))
    rows = [f"| {what} | {limit} | {sites:.0f} |" for sites, what, limit in found]
    return "\n".join(["| what gives out | of which there is | at so many hospitals |", "|---|---|---:|", *rows])


def reached(costs: Costs, limits: Limits) -> list[tuple[float, str, str]]:
    """At how many sites each limit is reached, what it is, and how much of it there is."""
    mean_mbit = sum(mbit * share for mbit, share in MIX)
    one = "one processor"
    lookers = next(number for number in range(1, 100_000) if calls_processors(number, costs, limits) > 1)
    line_mb_s = 1e3 / costs.superlink_ms_per_mb
    checked = next(number for number in range(1, 100_000) if _check_h(number, costs) > 1)
    return [
        (lookers, "the SuperLink, by calls alone while sites train", one),
        (
            line_mb_s * 8 / mean_mbit,
            "the SuperLink, by bytes, if all transfer at the same time at their lines' speed",
            one,
        ),
        (1e3 / costs.gateway_ms_per_mb * 8 / mean_mbit, "the gateway, by bytes, if all do so", one),
        (COORDINATOR_MBIT / mean_mbit, "the coordinator's line, if all do so", f"{COORDINATOR_MBIT:.0f} Mbit/s"),
        (
            limits.carrying / limits.parts,
            "parts of models that nginx lets through, if all do so; more wait",
            f"{limits.carrying}",
        ),
        (
            limits.carrying_from_one / limits.parts,
            "parts that nginx lets through from one address, if all hospitals behind it do so",
            f"{limits.carrying_from_one}",
        ),
        (
            limits.connections / (2 * limits.parts),
            "nginx's connections, to both sides, if all do so",
            f"{limits.connections}",
        ),
        (checked, "an hour for the check of all updates against each other", one),
    ]


def _check_h(num_sites: int, costs: Costs) -> float:
    return num_sites * MODEL_MILLIONS * (costs.check_ms + costs.check_ms_per_site * num_sites) / 3.6e6


def tables(costs: Costs = COSTS, limits: Limits = LIMITS) -> str:
    """Returns all tables as Markdown."""
    return "\n\n".join([round_table(costs, limits), limit_table(costs, limits), cost_table(costs)]) + "\n"


def written(text: str, new: str) -> str:
    """Returns a document with its tables replaced (ValueError: it has no place for them)."""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"expected a line {BEGIN.strip()!r} and later one {END.strip()!r}; add them")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> None:
    """Prints the tables, or puts them into a document."""
    parser = argparse.ArgumentParser(description="What a round of 10, 100 and 1,000 hospitals needs.")
    parser.add_argument("--write", type=Path, help="a Markdown file whose tables are replaced")
    document = parser.parse_args().write
    if document:
        document.write_text(written(document.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    else:
        print(tables(), end="")


if __name__ == "__main__":
    main()
