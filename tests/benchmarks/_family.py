"""The processes of one federation: who they are, what memory they hold, and how they are ended, whatever happens.

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
    return next((ROLES[name] for name in (*words, *names) if name in ROLES), "other")


class PeakByRole(Repeated):
    """Samples a federation's memory inside a `with`: the most of all together, and of each role's largest process."""

    def __init__(self, folder: Path, driver: int) -> None:
        super().__init__("memory", self._sample)
        self.peak_bytes = 0
        self.of_role: dict[str, int] = {}
        self._folder, self._driver = folder, driver

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
            except OSError:
                continue  # it has just ended
            num_bytes = proportional_bytes(process_id)
            name = DRIVER if process_id == self._driver else name
            self.of_role[name] = max(self.of_role.get(name, 0), num_bytes)
            total += num_bytes
        self.peak_bytes = max(self.peak_bytes, total)


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
