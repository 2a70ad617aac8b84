"""What `up` does about runs that are wanted and that nobody watches any more: it watches them itself.

So a run goes on when its terminal was closed, when the machine or the coordinator was started again. Each is watched on
a thread of its own, by the very code that `run` uses; who types `run` again takes over from here.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import FedgtvError
from server.control import Control
from server.wanted import TakenOverError, unwatched

log = logging.getLogger("fedgtv.coordinator")
JOIN_S = 5.0
"""A thread sees within a second that it is to end, unless it waits for one of Flower's commands."""


class _ClosedError(Exception):
    """`up` ends; its runs stay wanted."""


class Takeover:
    """The watch over the runs of the SuperLink in `folder`; `report` hears what the coordinator should know."""

    def __init__(self, control: Control, folder: Path, report: Callable[[str], None]) -> None:
        self._control = control
        self._folder = folder
        self._report = report
        self._closed = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._broken: set[str] = set()

    def look(self) -> None:
        """Begins to watch what nobody watches."""
        for name in unwatched(self._folder / "runs"):
            busy = name in self._threads and self._threads[name].is_alive()
            if not busy and name not in self._broken:
                self._threads[name] = threading.Thread(target=self._watch, args=(name,), name=name, daemon=True)
                self._threads[name].start()

    def close(self) -> None:
        """Ends the watch; the runs go on under the next `up`."""
        self._closed.set()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self, name: str) -> None:
        from server.launch import go_on  # heavy, and most coordinators that are up have nothing to watch
        from server.report import write_report

        try:
            self._report(f"run {name}: goes on, watched from here")
            run_folder = go_on(
                self._control, self._folder, name, lambda record: self._tell(name, record), self._waiting
            )
            self._report(f"run {name}: finished; report: {write_report(run_folder)}")
        except (_ClosedError, TakenOverError):
            return
        except FedgtvError as error:
            self._report(f"run {name}: {error}")
        except Exception:
            self._broken.add(name)
            log.exception("run %s: not watched any more; `fedgtv-coordinator run` goes on with it", name)

    def _tell(self, name: str, record: dict[str, Any]) -> None:
        from server.progress import describe

        line = describe(record)
        if line:
            self._report(f"run {name}: {line.strip()}")

    def _waiting(self) -> None:
        if self._closed.is_set():
            raise _ClosedError
