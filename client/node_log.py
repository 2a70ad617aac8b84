"""What a SuperNode's log says: whether it was let in, why it ended, and what the site is at work on."""

import re
from pathlib import Path

from common.processes import STARTS

ONLINE = re.compile(r"SuperNode ID: (\d+)")
GRACEFUL = "SuperNode terminated gracefully"
"""It has signed off: the coordinator holds no lease for it any more."""
WRONG_AUTHORITY = "CERTIFICATE_VERIFY_FAILED"
REFUSED = "[code: 2004]"
"""The key is not registered (any more), or a node with this key is online, or was less than a lease ago."""
UNAUTHENTIC = "401 Unauthorized"
"""Of the first call: the signed time is not the coordinator's."""
PROGRESS = re.compile(r"^\S+ (\d\d:\d\d:\d\d)\S* fedgtv(?:\.site)? (.*)")
"""A line of the site's, or of the science that it uses."""


class NodeLog:
    """Follows a SuperNode's log from its present end."""

    def __init__(self, path: Path) -> None:
        self.node_id: int | None = None
        """Flower's id, once the coordinator has let the node in."""
        self.connected = False
        """Whether the node was let in and has not signed off since."""
        self.refusals: set[str] = set()
        """Which of `WRONG_AUTHORITY`, `REFUSED` and `UNAUTHENTIC` the node met before it was let in."""
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._unfinished = b""

    def read(self) -> list[str]:
        """Takes in what is new and returns what people should see of it: lines such as `12:01:07  round 3 ...`."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as log:
            log.seek(self._position)
            new = log.read()
        self._position += len(new)
        *lines, self._unfinished = (self._unfinished + new).split(b"\n")
        return [told for line in lines if (told := self._hear(line.decode("utf-8", "replace")))]

    def _hear(self, line: str) -> str | None:
        if found := ONLINE.search(line):
            self.node_id, self.connected = int(found[1]), True
            self.refusals.clear()
        elif GRACEFUL in line:
            self.connected = False
        elif self.node_id is None:
            self.refusals |= {reason for reason in (WRONG_AUTHORITY, REFUSED, UNAUTHENTIC) if reason in line}
        progress = PROGRESS.match(line)
        return f"{progress[1]}  {progress[2].strip()}" if progress else None


def is_online(path: Path) -> bool:
    """Returns whether the node that started last, by this log, was let in and has not signed off since."""
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    return text.rfind("SuperNode ID: ") > max(text.rfind(GRACEFUL), text.rfind(STARTS))


def left_connected(path: Path) -> bool:
    """Returns whether the last node of this log was let in and never signed off: it was killed, or it still runs."""
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    return text.rfind("SuperNode ID: ") > text.rfind(GRACEFUL)
