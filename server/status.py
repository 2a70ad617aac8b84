"""What `status` shows: the sites' connections, every run, and of a run under way every site."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import WorkError
from server.federation import Federation
from server.live_view import run_json, run_lines

REFRESH_S = 2.0
ASK_EVERY_S = 30.0
"""Who is connected is asked of Flower, which takes a process and a second of a core."""


@dataclass
class Status:
    """A federation's state; what Flower knows of it is asked anew at most every `ASK_EVERY_S`."""

    federation: Federation
    fault: WorkError | None = None
    """Why Flower does not answer."""
    _sites: dict[str, str] = field(default_factory=dict)
    _asked: float | None = None

    def ask(self) -> None:
        """Learns from Flower which sites are connected."""
        if self._asked is not None and time.monotonic() - self._asked < ASK_EVERY_S:
            return
        self._asked = time.monotonic()
        try:
            self._sites, self.fault = self.federation.connections(), None
        except WorkError as error:
            self._sites, self.fault = {}, error

    def lines(self) -> Iterator[str]:
        """Yields what a person reads."""
        yield from (f"site {site}: {state}" for site, state in self._sites.items())
        for name, told in self.federation.progress().items():
            yield f"run {name}: {told}"
            yield from (f"  {line}" for line in run_lines(self._run_folder(name)))

    def as_json(self) -> dict[str, Any]:
        """Returns what a script reads."""
        runs = self.federation.progress()
        return {
            "up": self.fault is None,
            "sites": self._sites,
            "runs": runs,
            "live": {name: run_json(self._run_folder(name)) for name in runs},
            "valid_until": self.federation.valid_until(),
        }

    def watch(self, show: Callable[[str], None]) -> None:
        """Shows the lines anew every `REFRESH_S` until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            while True:
                self.ask()
                down = [f"{self.fault}"] if self.fault else []
                show("\n".join([*down, *self.lines()]))
                time.sleep(REFRESH_S)

    def _run_folder(self, name: str) -> Path:
        return self.federation.superlink().runs_folder / name
