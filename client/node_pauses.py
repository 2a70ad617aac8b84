"""How long a node pauses between two looks: a share of the quiet before it, and never longer than Flower does.

Flower 1.41 looks for a message every 3 s and for a reply every 0.5 s, whatever has just happened. A round takes as long
as its slowest site, so those pauses alone cost a federation 3 s a round. Here a pause costs a twentieth of what was
waited for anyway: at first 0.3 s between two looks for a message, each of which costs the coordinator 10 ms, and after
a minute Flower's own.
"""

import time
from collections.abc import Callable
from typing import Any

from common.pauses import pause_s


class Pauses:
    """Stands in the place of the `time` module in Flower's loop, which calls its `sleep` alone."""

    def __init__(self, quiet_s: Callable[[], float]) -> None:
        """`quiet_s`: for how long nothing has happened."""
        self._quiet_s = quiet_s

    def sleep(self, seconds: float) -> None:
        """Pauses for at most `seconds`, which is Flower's own."""
        time.sleep(pause_s(seconds, self._quiet_s()))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
