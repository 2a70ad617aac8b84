"""The parts of a message on their way, several at a time: over a long line one connection waits more than it works.

Between two parts (5 MB) a connection waits a round trip and for the coordinator, and where packets are lost it is slow
whatever the line carries. Flower has two parts under way, and one where there is one core.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError

AT_ONCE = 4
"""Parts under way. At 100 Mbit/s and 50 ms they take 16 % longer than their bytes do, with two 24; where one packet of
10,000 is lost, 53 and 129. Eight gain little more (docs/performance.md)."""
AVAILABLE_S = 600.0
"""A part that is announced comes to the coordinator within that time, or not at all."""
LOOK_S, LOOK_MAX_S = 0.25, 2.0
"""How soon it is asked for again, each time twice as late (Flower: 1 s, and up to 10 s)."""


def downloaded(names: Sequence[str], pull: Callable[[str], bytes]) -> dict[str, bytes]:
    """Returns the parts by name; one that is not there yet is waited for.

    Raises:
        ObjectPullError: one cannot be had.
        Exception: what `pull` raises besides; no further part is asked for then.
    """
    parts: dict[str, bytes] = {}
    broken = threading.Event()

    def download(name: str) -> None:
        parts[name] = _when_available(name, pull, broken)

    _each(names, download, broken)
    return parts


def upload(names: Sequence[str], push: Callable[[str], None]) -> None:
    """Sends the parts; the first exception of `push` is raised, and no further part is begun."""
    _each(names, push, threading.Event())


def _each(names: Sequence[str], carry: Callable[[str], None], broken: threading.Event) -> None:
    """Carries the parts; the first exception is raised, and told to the others by `broken`."""
    faults: list[BaseException] = []

    def carry_unless_broken(name: str) -> None:
        try:
            if not broken.is_set():
                carry(name)
        except BaseException as fault:
            faults.append(fault)
            broken.set()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        pool.map(carry_unless_broken, names)
    if faults:
        raise faults[0]


def _when_available(name: str, pull: Callable[[str], bytes], broken: threading.Event) -> bytes:
    until, pause_s = time.monotonic() + AVAILABLE_S, LOOK_S
    while True:
        try:
            return pull(name)
        except ObjectUnavailableError:
            if broken.wait(pause_s) or time.monotonic() > until:
                raise ObjectPullError(name, "it did not come to the coordinator") from None
            pause_s = min(2 * pause_s, LOOK_MAX_S)
