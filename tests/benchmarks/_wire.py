"""A proxy of loopback that counts the bytes between a site and its coordinator, and when each of them passed.

The kernel moves them from one socket to the other (splice), so that they cost about what one more copy in memory does.
"""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from deploy.repeated import Repeated

HOST = "127.0.0.1"
PIPE_BYTES = 1 << 20
SAMPLE_S = 0.02
EDGE = 0.01
"""Share of a round's bytes each way that may be of its edges: what nodes say of themselves all the time."""


@dataclass(frozen=True)
class Passed:
    """How many bytes had passed by a time of day, from coordinator to site and back."""

    time: float
    down: int
    up: int


@dataclass
class _Flow:
    """One way of one connection."""

    down: bool
    num_bytes: int = 0

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        """Passes all that `source` gives, then its end."""
        reading, writing = os.pipe()
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            with contextlib.suppress(OSError):  # one of them broke off
                while taken := os.splice(source.fileno(), writing, PIPE_BYTES):
                    self.num_bytes += taken
                    while taken:
                        taken -= os.splice(reading, target.fileno(), taken)
        finally:
            os.close(reading)
            os.close(writing)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


class Passing(Repeated):
    """Notes inside a `with` when bytes pass that others count."""

    def __init__(self, count: Callable[[], tuple[int, int]]) -> None:
        """`count` returns how many have passed so far, from coordinator to site and back."""
        super().__init__("passing", self._sample)
        self.passed: list[Passed] = []
        """A line for every `SAMPLE_S` in which something passed."""
        self._count, self._last = count, (0, 0)

    def _sample(self) -> float:
        now = self._count()
        if now != self._last:
            self.passed.append(Passed(time.time(), *now))
        self._last = now
        return SAMPLE_S


class Wire:
    """Listens on `port`, passes everything to the port that `beyond` returns, and back; a context manager."""

    def __init__(self, beyond: Callable[[], int]) -> None:
        self._beyond = beyond
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._flows: list[_Flow] = []
        self._passing = Passing(self._count)

    @property
    def passed(self) -> list[Passed]:
        return self._passing.passed

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="wire", daemon=True).start()
        self._passing.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.__exit__(None, None, None)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._connect, args=self._listener.accept()[:1], daemon=True).start()

    def _connect(self, site: socket.socket) -> None:
        with site, contextlib.suppress(OSError, ValueError), self._coordinator() as coordinator:
            down, up = _Flow(True), _Flow(False)
            self._flows += [down, up]
            back = threading.Thread(target=down.carry, args=(coordinator, site), daemon=True)
            back.start()
            up.carry(site, coordinator)
            back.join()

    def _coordinator(self) -> socket.socket:
        """OSError, ValueError: nobody listens there yet."""
        return socket.create_connection((HOST, self._beyond()))

    def _count(self) -> tuple[int, int]:
        down, up = (sum(flow.num_bytes for flow in self._flows if flow.down is way) for way in (True, False))
        return down, up


@dataclass(frozen=True)
class RoundTrip:
    """What passed in one round, and how many seconds its parts took, in their order."""

    down: int
    up: int
    dispatch_s: float
    """Until the site had what was sent to it."""
    site_s: float
    """Until it began to send."""
    upload_s: float
    """Until it had sent all."""
    after_s: float
    """Until the round's end."""


def round_trip(passed: Sequence[Passed], begin: float, end: float) -> RoundTrip:
    """Returns what passed from `begin` to `end`; for the times, an `EDGE` at both ends of each way is left out."""
    before = next((each for each in reversed(passed) if each.time <= begin), Passed(begin, 0, 0))
    within = [each for each in passed if begin < each.time <= end] or [Passed(begin, before.down, before.up)]
    down, up = within[-1].down - before.down, within[-1].up - before.up
    received = next(each.time for each in within if each.down - before.down >= (1 - EDGE) * down)
    begun = next(each.time for each in within if each.up - before.up >= EDGE * up)
    sent = next(each.time for each in within if each.up - before.up >= (1 - EDGE) * up)
    begun, sent = max(begun, received), max(sent, received)
    return RoundTrip(down, up, received - begin, begun - received, sent - begun, end - sent)
