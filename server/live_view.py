"""How a run under way stands, site by site: what its ServerApp has left in `live.json`, in words and for scripts.

The ServerApp writes the file anew whenever it hears something. A dead one leaves it as it was, so the run's lock is
looked at first, and an old file is said to be one.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from common.file_lock import is_held
from server.remedies import remedy, with_remedy
from server.run_lock import LOCK
from server.run_record import Line
from server.wanted import WATCHED, wanted
from server.watch import LIVE

STALE_S = 90.0
"""A ServerApp that waits for sites writes every few seconds; one that averages large models may be silent longer."""


class LastError(Line):
    """The last error of a site."""

    code: str
    time: AwareDatetime | None = None


class SiteLive(Line):
    """One site of the run."""

    connected: bool = False
    state: str = "waiting"
    epoch: int | None = None
    epochs: int | None = None
    last_seen: AwareDatetime | None = None
    expected_end: AwareDatetime | None = None
    error: LastError | None = None


class Live(Line):
    """What the run does now, and its sites."""

    time: AwareDatetime
    what: str = "work"
    model: str | None = None
    round: int | None = None
    rounds: int | None = None
    sites: dict[str, SiteLive] = Field(default_factory=dict)


def read_live(run_folder: Path) -> Live | None:
    """Returns what `live.json` holds; None where there is none, or none that can be read."""
    try:
        return Live.model_validate_json((run_folder / LIVE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def run_lines(run_folder: Path, now: datetime | None = None) -> list[str]:
    """Returns what is to be said of a run that is under way or to go on; nothing of one that is neither."""
    now = now or datetime.now(UTC)
    state, live = run_state(run_folder, now), read_live(run_folder)
    if state == "idle":
        return []
    words = {
        "silent": "at work; nothing is known of its sites yet",
        "restarting": "its ServerApp is not up; it is being started",
        "left": "its ServerApp is not up, and nobody watches over it; start `fedgtv-coordinator up`",
    }
    if state in words or live is None:
        return [words.get(state, words["silent"])]
    old = f"; this is as it was {_duration((now - live.time).total_seconds())} ago" if state == "stale" else ""
    return [_work(live) + old, *(f"  {_site(name, site, now)}" for name, site in sorted(live.sites.items()))]


def run_json(run_folder: Path, now: datetime | None = None) -> dict[str, Any]:
    """Returns the same for a script: `state`, and unless that is `idle` what `live.json` holds, with remedies."""
    state, live = run_state(run_folder, now or datetime.now(UTC)), read_live(run_folder)
    if state == "idle" or live is None:
        return {"state": state}
    told = live.model_dump(mode="json")
    for site in told["sites"].values():
        if site["error"]:
            site["error"]["remedy"] = remedy(site["error"]["code"])
    return {"state": state, **told}


def run_state(run_folder: Path, now: datetime) -> str:
    """Returns how a run stands.

    `working`; `silent`: at work, but not a word of its sites yet; `stale`: the last word is old; `restarting`: its
    ServerApp is not up and somebody sees to it; `left`: nobody does; `idle`: it is not to go on now.
    """
    if not is_held(run_folder / LOCK):
        if wanted(run_folder) is None:
            return "idle"
        return "restarting" if is_held(run_folder / WATCHED) else "left"
    live = read_live(run_folder)
    if live is None:
        return "silent"
    return "stale" if (now - live.time).total_seconds() > STALE_S else "working"


def _work(live: Live) -> str:
    model = f" {live.model}" if live.model else ""
    rounds = f", round {live.round} of {live.rounds}" if live.round and live.rounds else ""
    return f"{live.what}{model}{rounds}"


def _site(name: str, site: SiteLive, now: datetime) -> str:
    parts = ["connected" if site.connected else "not connected", _state(site)]
    if site.last_seen:
        parts.append(f"last seen {_duration((now - site.last_seen).total_seconds())} ago")
    if site.expected_end:
        parts.append(f"expected to end at {_clock(site.expected_end, now)}")
    return f"{name}: {', '.join(parts)}" + _error(site.error, now)


def _state(site: SiteLive) -> str:
    if site.epochs and site.epoch is not None:
        return f"{site.state} (epoch {site.epoch} of {site.epochs} done)"
    return site.state.replace("-", " ")


def _error(error: LastError | None, now: datetime) -> str:
    if error is None:
        return ""
    when = f" at {_clock(error.time, now)}" if error.time else ""
    return f"; last error{when}: {with_remedy(error.code)}"


def _clock(time: datetime, now: datetime) -> str:
    """Local time of day, with the day where that is not today."""
    local = time.astimezone()
    return f"{local:%H:%M}" if local.date() == now.astimezone().date() else f"{local:%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    """Words for a time span; a clock that was set back gives none."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 172_800 else f"{whole // 86_400} days"
