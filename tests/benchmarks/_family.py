"""The processes of one federation: who they are, what memory and processor time they take, and how they are ended.

All carry an environment variable that names the federation's folder; `common.processes` gives it to what it starts.
"""

import os
import signal
import time
from pathlib import Path

from common.processes import MARK
from deploy.memory import proportional_bytes
from deploy.repeated import Repeated

SAMPLE_S = 0.2
SHARE = 0.1
"""Of a core: so much at most goes into looking."""
ROLES = {
    "flwr-serverapp": "ServerApp",
    "flwr-clientapp": "ClientApp",
    "flwr": "flwr command",
    "flower-superexec": "launcher of ServerApps",
    "server.superlink_process": "SuperLink",
    "flower-superlink": "SuperLink",
    "client.node_process": "SuperNode",
    "flower-supernode": "SuperNode",
    "client.worker_process": "launcher of ClientApps",
    "nginx:": "gateway",
    "nginx": "gateway",
    "nvflare": "nvflare command",
    "nvflare.private.fed.app.server.server_train": "server",
    "nvflare.private.fed.app.client.client_train": "client",
    "nvflare.private.fed.app.server.runner_process": "server's job",
    "nvflare.private.fed.app.client.worker_process": "client's job",
}
"""By a word of its command line, or its name; what is none of these is `other`."""
FORKED = "multiprocessing.forkserver"
"""In the code that Python gives a process which is there to be forked."""
DRIVER = "driver"
"""What starts all the others and waits."""


def members(folder: Path) -> list[int]:
    """Ids of the processes that carry the folder's name."""
    wanted = str(folder).encode()
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and wanted in _mark(entry)]


def _mark(process: Path) -> bytes:
    """Empty for a process that is gone, or that carries none."""
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return b""
    return next((each for each in variables if each.startswith(f"{MARK}=".encode())), b"")


def role(words: list[str]) -> str:
    """Returns what a process is by the words of its command line and its name."""
    names = [Path(word).name for word in words]
    known = next((ROLES[name] for name in (*words, *names) if name in ROLES), "other")
    return "loaded libraries" if known == "other" and any(FORKED in word for word in words) else known


class UseByRole(Repeated):
    """Samples what a federation uses inside a `with`.

    `peak_bytes`: the most memory of all together. `of_role`: of each role's largest process.
    """

    def __init__(self, folder: Path, driver: int) -> None:
        super().__init__("use", self._sample)
        self.peak_bytes = 0
        self.of_role: dict[str, int] = {}
        self._processor: dict[tuple[str, int], float] = {}
        """Seconds by role and process, also of those that have ended."""
        self._history: list[tuple[float, dict[str, float]]] = []
        """By time of day, seconds of each role."""
        self._folder, self._driver = folder, driver

    def processor_s(self, begin: float, end: float) -> dict[str, float]:
        """Returns the seconds of a processor that each role used between two times of day, as they were sampled."""
        first, last = self._used_by(begin), self._used_by(end)
        return {role: seconds - first.get(role, 0.0) for role, seconds in last.items()}

    def _used_by(self, moment: float) -> dict[str, float]:
        return next((used for at, used in reversed(self._history) if at <= moment), {})

    def _sample(self) -> float:
        used = time.thread_time()
        self._add_up()
        return max(SAMPLE_S, (time.thread_time() - used) / SHARE)

    def _add_up(self) -> None:
        total = 0
        for process_id in members(self._folder):
            process = Path(f"/proc/{process_id}")
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")[:6]
                name = role([(process / "comm").read_text().strip(), *words])
                seconds = _processor_s((process / "stat").read_text())
            except OSError:
                continue  # it has just ended
            num_bytes = proportional_bytes(process_id)
            name = DRIVER if process_id == self._driver else name
            self._processor[name, process_id] = seconds
            self.of_role[name] = max(self.of_role.get(name, 0), num_bytes)
            total += num_bytes
        self.peak_bytes = max(self.peak_bytes, total)
        by_role: dict[str, float] = {}
        for (name, _), seconds in self._processor.items():
            by_role[name] = by_role.get(name, 0.0) + seconds
        self._history.append((time.time(), by_role))


def _processor_s(stat: str) -> float:
    """Of a process itself, in user code and in the system, by its line in /proc; the name may hold blanks."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(folder: Path, grace_s: float = 10.0) -> None:
    """Asks what is left of the federation to end, then kills it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process_id in members(folder):
            try:
                os.kill(process_id, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + grace_s
        while members(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
