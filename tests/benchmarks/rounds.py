"""A round of federated training without the training: the product, stock Flower and NVFlare, one after another.

Each is a federation of real processes on this machine, a coordinator and three sites, over TLS. The sites add a small
number of their own to every weight, so that nothing is sent that the other side has already. Site A's calls pass a
proxy that counts bytes; memory is the proportional set size, which counts a page that processes share once.

Run by hand, on a machine without other work:
PYTHONPATH=.:tests .venv-bench/bin/python tests/benchmarks/rounds.py [--sizes 0 50] [--only product flower] [--rounds 5]
The size is of the weights, in MB of fp32; `full` is the default cascade (910 MiB). 500 MB take 8 GB of disk.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import _family
from _driven import BEYOND, SITES, TOLD, Setup, interruptible
from _wire import Passed, RoundTrip, Wire, round_trip

from common.processes import MARK

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SIZES = ("0", "50", "200", "500", "full")
PRODUCT = "product"
SYSTEMS = {PRODUCT: "_product_rounds.py", "flower": "_flower_rounds.py", "nvflare": "_nvflare_rounds.py"}
LOADED = "+torch"
"""A peer's name with it: the peer with a client that imports torch, as one that trains does, and the product's."""
NAMES = (*SYSTEMS, *(f"{peer}{LOADED}" for peer in SYSTEMS if peer != PRODUCT))
LOG = "driver.log"
WAYS = ("down", "up")
COUNTED = "A"
"""The site whose calls pass the counting proxy; all three get and send the same number of bytes."""
TOLD_BYTES = 50_000_000
"""A role's process is named from so much memory on."""
SMALL_BYTES = 1_000_000
"""Less than this does not show among what nodes say all the time."""
HEAD = """\
| MB | system | s a round | ratio | start-up, s | MB to sites | MB from sites | GB | ratio | largest of each kind, GB |
|---|---|---|---|---|---|---|---|---|---|"""
SHOWN_S = 0.05
"""Less processor time a round is not told."""
END_S = 90.0
"""A federation has so long to end when it is told to."""
NO_TRAINING = '''

def train_stage(network, stage, cases, recipe, span, normalisation, optimiser, on_epoch, received=None):
    """Adds a number to every weight, one that no other site adds."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1e-3 * (1 + span.seed % 1000 / 1000)
    for epoch in range(span.first_epoch, span.first_epoch + span.num_epochs):
        on_epoch(epoch, 0.5)
    return [0.5] * span.num_epochs
'''
"""Stands at the end of the release's `common/training.py`, in the place of the function of that name."""


@dataclass(frozen=True)
class Row:
    """What one system took for one size; `fault`: why it took nothing."""

    size: str
    system: str
    fault: str = ""
    seconds: Sequence[float] = ()
    """Of each round."""
    start_s: float = 0.0
    trips: Sequence[RoundTrip] = ()
    parts: Sequence[dict[str, float]] = ()
    peak_bytes: int = 0
    of_role: dict[str, int] = field(default_factory=dict)
    processor: Sequence[dict[str, float]] = ()
    """Of each round, seconds by role."""

    @property
    def round_s(self) -> float:
        """Median, without the first round, which differs."""
        return median(self.later(self.seconds))

    @staticmethod
    def later(rounds: Sequence[Any]) -> Sequence[Any]:
        """Returns what is of other rounds than the first, unless there is no other."""
        return rounds[1:] or rounds


def write_model(size: str, folder: Path) -> tuple[Path, Path]:
    """Writes weights of a size and their recipe, and returns both paths; torch stays out of this process's memory."""
    folder.mkdir()
    with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
        elsewhere.submit(_write_model, size, folder).result()
    return folder / "model.safetensors", folder / "recipe.json"


def _write_model(size: str, folder: Path) -> None:
    from federation.sized import COARSE, sized_recipe
    from safetensors.numpy import save_file

    from common.model import build_model, model_weights
    from common.recipe import Recipe

    recipe = Recipe(preprocess=COARSE) if size == "full" else sized_recipe(float(size))
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    save_file(dict(model_weights(build_model(recipe, 1))), folder / "model.safetensors")


def idle_release(folder: Path) -> Path:
    """Copies the release to `folder`, but for its training, which does nothing there."""
    for package in ("client", "common", "server"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    with (folder / "common" / "training.py").open("a") as file:
        file.write(NO_TRAINING)
    return folder


def measure(size: str, system: str, work: Path, model: Sequence[Path], num_rounds: int, limit_s: float) -> Row:
    """Runs one federation in `work` and returns what it took; nothing of it is left running."""
    with Wire(beyond(work)) as wire:
        Setup(str(work), *map(str, model), num_rounds, {COUNTED: wire.port}, torch=system.endswith(LOADED)).write()
        with driven(system, work) as driver, _family.UseByRole(work, driver.pid) as use:
            code = ended(driver, limit_s)
    if code != 0:
        return Row(size, system, reason(code, work, limit_s))
    return made(size, system, json.loads((work / TOLD).read_text()), wire.passed, use)


def beyond(work: Path) -> Callable[[], int]:
    """Returns what gives the port that a federation's coordinator listens on (OSError, ValueError: on none yet)."""
    return lambda: int((work / BEYOND).read_text())


@contextlib.contextmanager
def driven(system: str, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts what drives a federation; on leaving it is told to end, as by Ctrl-C, and then all that it left is."""
    release = idle_release(work / "release") if system == PRODUCT else ROOT
    search = os.pathsep.join(map(str, (release, ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": search, MARK: str(work), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / SYSTEMS[system.removesuffix(LOADED)]), str(work)]
    with (work / LOG).open("wb") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(END_S)
        _family.end(work)
        driver.wait()


def ended(driver: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Returns a driver's exit code; None if it does not end in time."""
    try:
        return driver.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


def reason(code: int | None, work: Path, limit_s: float) -> str:
    """Returns why a driver has told nothing, with the last line of its log."""
    lines = (work / LOG).read_text(errors="replace").strip().splitlines()
    why = f"not done within {limit_s:.0f} s" if code is None else f"exit code {code}"
    return f"{why}: {lines[-1] if lines else 'it said nothing'}"


def made(size: str, system: str, told: dict, passed: Sequence[Passed], use: _family.UseByRole) -> Row:
    """Returns the row of what a driver told and what was seen meanwhile."""
    marks = told["marks"]
    trips = [round_trip(passed, begin, end) for begin, end in pairwise(marks)]
    seconds = [end - begin for begin, end in pairwise(marks)]
    start_s = marks[0] - told["began"]
    processor = [use.processor_s(begin, end) for begin, end in pairwise(marks)]
    return Row(size, system, "", seconds, start_s, trips, told["parts"], use.peak_bytes, use.of_role, processor)


def table(rows: Sequence[Row]) -> str:
    """Returns a size's rows as Markdown; each ratio is to the best of the peers, of the product's rows and theirs."""
    peers = [row for row in rows if row.system != PRODUCT and not row.fault]
    least_s = min((row.round_s for row in peers), default=math.nan)
    least_bytes = min((row.peak_bytes for row in peers), default=math.nan)
    return "\n".join(_line(row, least_s, least_bytes) for row in rows)


def _line(row: Row, least_s: float, least_bytes: float) -> str:
    if row.fault:
        return f"| {row.size} | {row.system} | failed: {row.fault} | | | | | | | |"
    down, up = (len(SITES) * median(getattr(trip, way) for trip in row.later(row.trips)) / 1e6 for way in WAYS)
    roles = sorted(row.of_role.items(), key=lambda item: -item[1])
    told = ", ".join(f"{role} {num_bytes / 1e9:.2f}" for role, num_bytes in roles if num_bytes >= TOLD_BYTES)
    seconds = f"{row.round_s:.2f} | {row.round_s / least_s:.2f}"
    memory = f"{row.peak_bytes / 1e9:.2f} | {row.peak_bytes / least_bytes:.2f} | {told}"
    return f"| {row.size} | {row.system} | {seconds} | {row.start_s:.1f} | {down:.1f} | {up:.1f} | {memory} |"


def shares(row: Row) -> str:
    """Returns where the time of a round goes.

    By what passed at one site, by what the system knows of itself, and the seconds of processors that each role used.
    """
    names = {"dispatch": "dispatch_s", "at the site": "site_s", "upload": "upload_s", "after it": "after_s"}
    trips = [trip for trip in row.later(row.trips) if min(trip.down, trip.up) >= SMALL_BYTES]
    seen = {name: median(getattr(trip, key) for trip in trips) for name, key in names.items() if trips}
    known = {name: median(part[name] for part in row.later(row.parts)) for name in (*row.parts, {})[0]}
    used = _by_role(row.later(row.processor))
    told = [_told(each) for each in (seen, known) if each]
    told += [f"of processors {sum(used.values()):.2f} s ({_told(used)})"] if used else []
    return f"{row.size}, {row.system}: " + "; ".join(told)


def _told(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())


def _by_role(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over rounds, the largest first, without what does not show."""
    means = {role: fmean(used.get(role, 0.0) for used in rounds) for used in rounds for role in used}
    return {role: means[role] for role in sorted(means, key=lambda role: -means[role]) if means[role] >= SHOWN_S}


def main() -> None:
    """Prints a table of every size and system, and below it where the time of a round goes."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, help="MB of fp32, or full: the default cascade, which takes 15 GB of disk"
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="one after another")
    parser.add_argument("--rounds", type=int, default=5, help="of which the first does not count")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="of one system and size, in seconds")
    parser.add_argument(
        "--folder", type=Path, default=tempfile.gettempdir(), help="where everything is written and removed again"
    )
    arguments = parser.parse_args()
    rows: list[Row] = []
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="rounds-", dir=arguments.folder) as name:
        for size in arguments.sizes:
            model = write_model(size, Path(name) / f"model-{size}")
            new = [_measured(size, system, Path(name), model, arguments) for system in arguments.only]
            print(table(new), flush=True)
            rows += new
    print("\nWhere the time of a round goes, median without the first:\n")
    print("\n".join(shares(row) for row in rows if not row.fault))


def _measured(size: str, system: str, folder: Path, model: Sequence[Path], arguments: argparse.Namespace) -> Row:
    work = folder / f"{system}-{size}"
    work.mkdir()
    try:
        row = measure(size, system, work, model, arguments.rounds, arguments.limit_s)
        print(f"{size}, {system}: {row.fault or 'measured'}", file=sys.stderr, flush=True)
        return row
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    interruptible()
    with contextlib.suppress(KeyboardInterrupt):  # everything has been ended and removed
        sys.exit(main())
    sys.exit(130)
