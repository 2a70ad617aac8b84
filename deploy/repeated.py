"""A thread that looks at something again and again while other work goes on."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Repeated:
    """Calls `look` in a thread inside a `with`, at least once; what it returns are the seconds until the next call."""

    def __init__(self, name: str, look: Callable[[], float]) -> None:
        """`name`: of the thread."""
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._look()):
            pass
