"""A clock that jumps: the time of day of a process and of all that it starts; what waits for a span is not touched."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock.c")


@dataclass(frozen=True)
class Clock:
    """The time of day of all processes with this environment."""

    folder: Path

    @property
    def _ahead(self) -> Path:
        return self.folder / "ahead"

    def environment(self) -> dict[str, str]:
        """What a process is to start with; the test is skipped where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler (cc), to make a clock that can be set")
        library = self.folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        self.set(0)
        return {"LD_PRELOAD": str(library), "FEDGTV_TEST_CLOCK": str(self._ahead)}

    def set(self, ahead_s: int) -> None:
        """The clock is so many seconds ahead of the true one."""
        beside = self.folder / "next"
        beside.write_text(f"{ahead_s}\n")
        beside.replace(self._ahead)
