"""How much memory a family of processes holds, read from /proc."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(process_id: int) -> int:
    """Returns the resident set of one process in bytes; 0 for one that is gone. Shared pages count in each."""
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


class PeakMemory:
    """Samples the sum over processes every `every_s` inside a `with`; `peak_bytes` is the largest sum seen."""

    def __init__(self, members: Callable[[], Iterable[int]], every_s: float = 1.0) -> None:
        """`members`: ids of the processes to count, asked anew each time; this process is always counted."""
        self.peak_bytes = 0
        self._members = members
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            ids = {os.getpid(), *self._members()}
            self.peak_bytes = max(self.peak_bytes, sum(resident_bytes(process_id) for process_id in ids))
            if self._stop.wait(self._every_s):
                return
