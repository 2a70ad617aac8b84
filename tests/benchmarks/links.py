"""A round over links as hospitals have them, beside what its bytes alone would take.

The product as in `rounds.py`, with three sites that do not train; each calls its coordinator over a line of its own,
which is slow and far in both directions (`tests/faults/proxy.py`: a rate, a delay, a buffer of one round trip, TCP as
Reno has it). The coordinator's own line is not modelled: it is as fast as all of theirs together.

Run by hand, on a machine without other work:
PYTHONPATH=.:tests .venv-bench/bin/python tests/benchmarks/links.py [--only 4] [--transport fp16] [--loss 0.0001]
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import _family
import rounds
from _driven import SITES, TOLD, Setup, interruptible
from _wire import Passed, Passing, RoundTrip, round_trip
from faults.proxy import Link, Proxy

TRANSPORTS = ("fp32", "fp16")
HEAD = """\
| Mbit/s | round trip, ms | MB | transport | MB to a site | MB from it | bytes / bandwidth, s | s a round | overhead | \
dispatch | site | upload | after |
|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Case:
    """A link, and the size in MB of fp32 of a model that it carries in less than a minute."""

    bits_per_s: float
    round_trip_s: float
    megabytes: float

    def link(self, loss: float) -> Link:
        """Its buffer holds what is sent in a round trip, the classical rule."""
        return Link(self.bits_per_s, self.round_trip_s, loss, buffer_s=self.round_trip_s)


CASES = {"100": Case(100e6, 0.05, 50), "20": Case(20e6, 0.1, 20), "4": Case(4e6, 0.3, 10)}
"""By Mbit/s."""


@dataclass(frozen=True)
class Row:
    """What a case took; `fault`: why it took nothing."""

    case: Case
    transport: str
    fault: str = ""
    seconds: Sequence[float] = ()
    """Of each round."""
    trips: Sequence[RoundTrip] = ()
    """Of the site that was the last one of its round."""
    processor: Mapping[str, float] | None = None
    """Seconds a round by role."""

    @property
    def round_s(self) -> float:
        """Median, without the first round, which differs."""
        return median(self.seconds[1:] or self.seconds)

    def part(self, name: str) -> float:
        """The median of a part of a round, without the first."""
        return median(getattr(trip, name) for trip in self.trips[1:] or self.trips)

    @property
    def line_s(self) -> float:
        """What the bytes alone take, there and then back."""
        return (self.part("down") + self.part("up")) * 8 / self.case.bits_per_s


def measure(case: Case, transport: str, work: Path, model: Sequence[Path], num_rounds: int, link: Link) -> Row:
    """Runs one federation in `work` and returns what it took; nothing of it is left running."""
    limit_s = 300.0 + 60.0 * num_rounds
    with lines(link, work) as (ports, passing):
        Setup(str(work), *map(str, model), num_rounds, ports, transport).write()
        with rounds.driven(rounds.PRODUCT, work) as driver, _family.UseByRole(work, driver.pid) as use:
            code = rounds.ended(driver, limit_s)
    if code != 0:
        return Row(case, transport, rounds.reason(code, work, limit_s))
    marks = json.loads((work / TOLD).read_text())["marks"]
    trips = [last_of([each.passed for each in passing], begin, end) for begin, end in pairwise(marks)]
    used = use.processor_s(marks[min(1, len(marks) - 2)], marks[-1])
    a_round = {role: seconds / max(1, len(marks) - 2) for role, seconds in used.items()}
    return Row(case, transport, "", [end - begin for begin, end in pairwise(marks)], trips, a_round)


@contextlib.contextmanager
def lines(link: Link, work: Path) -> Iterator[tuple[dict[str, int], list[Passing]]]:
    """A line for each site: the ports that they call, and what passes."""
    with ExitStack() as stack:
        proxies = {site: stack.enter_context(Proxy(rounds.beyond(work), link)) for site in SITES}
        passing = [
            stack.enter_context(Passing(lambda proxy=proxy: (proxy.down, proxy.up))) for proxy in proxies.values()
        ]
        yield {site: proxy.port for site, proxy in proxies.items()}, passing


def last_of(sites: Sequence[Sequence[Passed]], begin: float, end: float) -> RoundTrip:
    """Returns the round of the site whose last byte came last."""
    return min((round_trip(passed, begin, end) for passed in sites), key=lambda trip: trip.after_s)


def line_of(row: Row) -> str:
    """Returns a row as Markdown."""
    case = row.case
    named = f"| {case.bits_per_s / 1e6:g} | {case.round_trip_s * 1e3:g} | {case.megabytes:g} | {row.transport}"
    if row.fault:
        return f"{named} | failed: {row.fault} | | | | | | | | |"
    parts = " | ".join(f"{row.part(name):.1f}" for name in ("dispatch_s", "site_s", "upload_s", "after_s"))
    size = f"{row.part('down') / 1e6:.1f} | {row.part('up') / 1e6:.1f}"
    over = f"{row.line_s:.1f} | {row.round_s:.1f} | {100 * (row.round_s / row.line_s - 1):.0f} %"
    return f"{named} | {size} | {over} | {parts} |"


def processor_of(row: Row) -> str:
    """Returns the seconds of processors that each role used in a round, the largest first."""
    used = sorted((row.processor or {}).items(), key=lambda item: -item[1])
    told = ", ".join(f"{role} {seconds:.2f}" for role, seconds in used if seconds >= rounds.SHOWN_S)
    named = f"{row.case.bits_per_s / 1e6:g} Mbit/s, {row.transport}"
    return f"{named}: of processors {sum(seconds for _, seconds in used):.1f} s: {told}"


def main() -> None:
    """Prints a row for each link and transport, and what a round took of processors."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="links, by Mbit/s")
    parser.add_argument("--transport", nargs="+", choices=TRANSPORTS, default=TRANSPORTS, help="one after another")
    parser.add_argument("--mb", type=float, help="of the model in fp32, instead of each line's own: 50, 20, 10")
    parser.add_argument("--loss", type=float, default=0.0, help="share of segments lost by chance, 0 to 1")
    parser.add_argument("--rounds", type=int, default=5, help="of which the first does not count")
    parser.add_argument(
        "--folder", type=Path, default=tempfile.gettempdir(), help="where everything is written and removed again"
    )
    arguments = parser.parse_args()
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="links-", dir=arguments.folder) as name:
        rows = []
        for number, key in enumerate(arguments.only):
            case = CASES[key] if arguments.mb is None else replace(CASES[key], megabytes=arguments.mb)
            model = rounds.write_model(f"{case.megabytes:g}", Path(name) / f"model-{number}")
            for transport in arguments.transport:
                rows.append(_measured(case, transport, Path(name) / f"{key}-{transport}", model, arguments))
                print(line_of(rows[-1]), flush=True)
    print("\n" + "\n".join(processor_of(row) for row in rows if not row.fault))


def _measured(case: Case, transport: str, work: Path, model: Sequence[Path], arguments: argparse.Namespace) -> Row:
    work.mkdir()
    try:
        return measure(case, transport, work, model, arguments.rounds, case.link(arguments.loss))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    interruptible()
    with contextlib.suppress(KeyboardInterrupt):  # everything has been ended and removed
        sys.exit(main())
    sys.exit(130)
