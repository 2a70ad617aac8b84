"""A clock that jumps: a process's time of day, by libfaketime; its clock for waiting goes on as it is."""

from dataclasses import dataclass
from pathlib import Path

import pytest

LIBRARIES = "*/faketime/libfaketimeMT.so.1"
"""Below /usr/lib, where Debian puts it."""


@dataclass(frozen=True)
class Clock:
    """The time of day of all processes with this environment; the test is skipped where there is no libfaketime."""

    path: Path

    def environment(self) -> dict[str, str]:
        library = next(Path("/usr/lib").glob(LIBRARIES), None)
        if library is None:
            pytest.skip("libfaketime is not installed; on Debian: make faketime")
        self.set(0)
        settings = {"FAKETIME_TIMESTAMP_FILE": str(self.path), "FAKETIME_CACHE_DURATION": "1"}
        return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **settings}

    def set(self, ahead_s: int) -> None:
        """The clock is so many seconds ahead of the true one, within a second."""
        self.path.write_text(f"{ahead_s:+d}\n")
