"""How much memory a family of processes holds together, read from /proc."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.repeated import Repeated


def proportional_bytes(process_id: int) -> int:
    """Returns the proportional set size of one process in bytes, in which a page that n processes share counts 1/n.

    So the sum over processes is what they hold together, forks included. 0 for one that is gone or another account's.
    The kernel walks all resident pages for it: 8 ms a GB.
    """
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def descendants(process_id: int) -> set[int]:
    """Returns the ids of the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
    found: set[int] = set()
    unseen = [process_id]
    while unseen:
        new = set(children.get(unseen.pop(), ())) - found
        found |= new
        unseen += new
    return found


def _parent(process_id: int) -> int:
    """0 for a process that is gone, as for those that have none; the name before it may hold blanks and brackets."""
    try:
        return int(Path(f"/proc/{process_id}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


class PeakMemory(Repeated):
    """Samples the sum over processes every `every_s` inside a `with`; `peak_bytes` is the largest sum seen."""

    def __init__(self, members: Callable[[], Iterable[int]], every_s: float = 2.0) -> None:
        """`members`: ids of the processes to count, asked anew each time.

        This process and its descendants are always counted; `members` are those that have got another parent.
        """
        super().__init__("peak-memory", self._sample)
        self.peak_bytes = 0
        self._members = members
        self._every_s = every_s

    def _sample(self) -> float:
        ids = {os.getpid(), *descendants(os.getpid()), *self._members()}
        self.peak_bytes = max(self.peak_bytes, sum(proportional_bytes(process_id) for process_id in ids))
        return self._every_s
