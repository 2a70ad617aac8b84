"""Moments of a round at which something is killed: a phase, seen from outside, and a random delay after it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faults.runs import MODEL, UnderWay, json_lines
from faults.standing import Standing

PHASES = {"dispatch": 4.0, "upload": 1.5, "aggregation": 0.05, "checkpoint": 0.02}
"""The longest delay in seconds after each phase is seen to begin; what follows it lasts about so long."""
POLL_S, FINE_POLL_S = 0.1, 0.004
"""A round's aggregation and writing take some ten times as long as the latter."""
WAIT_S = 600.0


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    phase: str
    round: int
    delay_s: float

    @classmethod
    def draw(cls, number: int, num_rounds: int, seed: str) -> "Moment":
        """Moment `number` of a series: the phases take turns, round and delay are random; the same for every seed."""
        chance = random.Random(f"{seed}/{number}")
        phase = list(PHASES)[number % len(PHASES)]
        return cls(phase, chance.randint(1, num_rounds), chance.uniform(0.0, PHASES[phase]))


def wait_for(moment: Moment, run: UnderWay, standing: Standing) -> None:
    """Returns at the moment; fails if the run ends before."""
    _wait(_dispatched(moment.round, run), POLL_S, moment, run)
    if moment.phase != "dispatch":
        seen = {"upload": _uploading, "aggregation": _all_in, "checkpoint": _writing}[moment.phase]
        _wait(seen(moment.round, run, standing), FINE_POLL_S, moment, run)
    time.sleep(moment.delay_s)


def _wait(is_seen: Callable[[], bool], poll_s: float, moment: Moment, run: UnderWay) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_seen():
        assert run.alive, f"ended before {moment}"
        assert time.monotonic() < deadline, f"{moment} did not come: {run.records()[-2:]}"
        time.sleep(poll_s)


def landed(number: int, run: UnderWay, standing: Standing) -> str:
    """The phase in which round `number` was when something was killed; `after` if it had closed."""
    spooled = _num_spooled(run)
    if run.records("round", round=number):
        return "after"
    if _written(number, run):
        return "checkpoint"
    if spooled == len(standing.configs):
        return "aggregation"
    return "upload" if spooled or _uploading(number, run, standing)() else "dispatch"


def _dispatched(number: int, run: UnderWay) -> Callable[[], bool]:
    """The round before is in the ledger, or for the first, its step has begun."""
    if number == 1:
        return lambda: bool(run.records("step", what="train"))
    return lambda: bool(run.records("round", round=number - 1))


def _uploading(number: int, run: UnderWay, standing: Standing) -> Callable[[], bool]:
    """A site's audit log holds that its reply is about to go out; read only where a log has grown."""
    logs = [config.parent / "state" / "audit.jsonl" for config in standing.configs.values()]
    sizes: list[int] = []

    def seen() -> bool:
        now = [path.stat().st_size if path.exists() else 0 for path in logs]
        if now == sizes:
            return False
        sizes[:] = now
        return any(_sends(json_lines(path), run.experiment.name, number) for path in logs)

    return seen


def _sends(records: list[dict[str, Any]], experiment: str, number: int) -> bool:
    trains = [each for each in records if each.get("experiment") == experiment and each.get("round") == number]
    asked = {each["message"] for each in trains}
    return any(each["event"] == "outgoing" and each["message"] in asked for each in records)


def _all_in(_: int, run: UnderWay, standing: Standing) -> Callable[[], bool]:
    """Every site's reply to the round is on the coordinator's disk."""
    return lambda: _num_spooled(run) == len(standing.configs)


def _num_spooled(run: UnderWay) -> int:
    return len(list(run.folder.glob("spool/**/*.json")))


def _writing(number: int, run: UnderWay, _: Standing) -> Callable[[], bool]:
    """The round's weights, whole or not, have begun to be written."""
    return lambda: _written(number, run)


def _written(number: int, run: UnderWay) -> bool:
    return any(run.folder.glob(f"rounds/{MODEL}/*round-{number:04d}*"))
