"""What is known of every site while it is waited for: in the run's `live.json`, and in the ledger when it matters."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common.atomic import write_text_atomically
from common.tasks import SiteProgress

log = logging.getLogger("fedgtv.coordinator")
LIVE = "live.json"
LONGEST_S = 30 * 86_400.0
"""No end is expected that is further away."""
WRITE_S = 2.0
"""The file is written at most so often."""


def now() -> datetime:
    """Returns the time of day, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


class Watch:
    """Hears from the round loop what happens at the sites, and tells those who ask."""

    def __init__(self, folder: Path | None = None, record: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """`folder`: the run's, None: nothing is written; `record`: takes what belongs into the ledger."""
        self._path = None if folder is None else folder / LIVE
        self._record = record
        self._work: dict[str, Any] = {}
        self._sites: dict[str, dict[str, Any]] = {}
        self._began: dict[str, SiteProgress] = {}
        """What a site told first of the work that it is at."""
        self._written = -WRITE_S

    def begin(self, **work: Any) -> None:
        """Takes note of what is done now: step, what, and for training model, round and rounds."""
        self._work = {**work, "started": now().isoformat()}
        self._write(at_once=True)

    def ask(self, sites: Sequence[str]) -> None:
        """These sites have been sent a task."""
        for site in sites:
            told = self._sites.setdefault(site, {"connected": True, "last_seen": None, "error": None})
            told |= {"state": "waiting", "epoch": None, "epochs": None, "expected_end": None}
        self._write(at_once=True)

    def note(self, text: str) -> None:
        """A sentence for whoever watches the run."""
        log.warning("%s", text)
        self._record({"kind": "note", "text": text})

    def connected(self, site: str, connected: bool) -> None:
        """Whether the site's node is connected, as was just seen."""
        told = self._sites[site]
        told["connected"] = connected
        if connected:
            told["last_seen"] = now().isoformat()
        self._write()

    def progress(self, site: str, progress: SiteProgress) -> None:
        """What the site itself tells of its work."""
        told = self._sites[site]
        told |= {"connected": True, "state": progress.state, "last_seen": now().isoformat()}
        told |= {
            "epoch": progress.epoch,
            "epochs": progress.epochs or None,
            "expected_end": self._expected_end(site, progress),
        }
        if progress.error and (told["error"] or {}).get("code") != progress.error:
            self.event(site, "error", progress.error)
        self._write()

    def _expected_end(self, site: str, progress: SiteProgress) -> str | None:
        """By the epochs since the site first told of this work; those before may be of an earlier attempt."""
        began = self._began.get(site)
        same = began is not None and (began.model, began.round) == (progress.model, progress.round)
        if began is None or not same or progress.seconds < began.seconds:
            self._began[site] = progress
            return None
        num_epochs = progress.epoch - began.epoch
        if num_epochs < 1:
            return None
        left_s = (progress.seconds - began.seconds) / num_epochs * (progress.epochs - progress.epoch)
        return None if left_s > LONGEST_S else (now() + timedelta(seconds=round(left_s))).isoformat()

    def answered(self, site: str) -> None:
        """The site's reply is here."""
        log.info("site %s answered", site)
        self._sites[site] |= {"state": "answered", "last_seen": now().isoformat(), "expected_end": None}
        self._write(at_once=True)

    def event(self, site: str, event: str, why: str) -> None:
        """What the coordinator should know of a site; it goes into the ledger too.

        Args:
            site: which.
            event: `lost`, `back`, `asked-again`, `late`, `duplicate`, `left-out` or `error`.
            why: a reason's or an error's code.
        """
        log.info("site %s: %s (%s)", site, event, why)
        told = self._sites.setdefault(site, {"connected": False, "last_seen": None, "error": None, "state": "waiting"})
        if event in ("lost", "left-out", "error"):
            told["error"] = {"code": why, "time": now().isoformat()}
        if event in ("lost", "left-out"):
            told |= {"state": event, "expected_end": None}
        elif event in ("back", "asked-again"):
            told["state"] = "waiting"
        where = {key: self._work[key] for key in ("model", "round") if self._work.get(key) is not None}
        if event != "left-out":  # the round's own line says so
            self._record({"kind": "site", "site": site, "event": event, "why": why, **where})
        self._write(at_once=True)

    def _write(self, at_once: bool = False) -> None:
        if self._path is None or (not at_once and time.monotonic() - self._written < WRITE_S):
            return
        self._written = time.monotonic()
        text = json.dumps({"time": now().isoformat(), **self._work, "sites": self._sites})
        try:
            write_text_atomically(self._path, text, durable=False)
        except OSError as error:  # what is shown is worth no run
            log.warning("%s: not written (%s)", self._path, error.strerror)
