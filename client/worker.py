"""The worker: starts the training code for the site's node, under an account that cannot reach the node's key.

The node runs elsewhere, under its own account (`client/node.py`), judges every task and every reply, and holds the
work until this process asks for it. Nothing here talks to the coordinator.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from client.handover import VARIABLE, folder_in
from client.node_log import NodeLog
from client.worker_account import SECRET
from common.errors import WorkError
from common.processes import ProcessTree, flower_environment

NAME = "worker"
RESTART_S = 5.0
TELL_S = 10.0
"""A node whose secret is not there by then is told of, once."""
UMASK = 0o007
"""What the training code writes is the worker's and its group's."""


@dataclass
class Worker:
    """The supervised process of one site that starts the node's ClientApps."""

    work: Path
    """The site's work folder; log and FLWR_HOME go below it."""
    node: str
    """host:port where the node waits."""
    report: Callable[[str], None] = lambda _line: None
    restart_s: float = RESTART_S
    tree: ProcessTree = field(init=False)

    def __post_init__(self) -> None:
        self.tree = worker_tree(self.work)

    def run(self, stop: threading.Event) -> None:
        """Keeps the process running in this thread until `stop` is set; it waits for the node's first start."""
        try:
            if not self._wait_for_secret(stop):
                return
            while not stop.is_set():
                code = self._run_once(stop)
                if not stop.is_set():
                    self.report(f"worker ended (exit code {code}); starting it again in {self.restart_s:.0f} s")
                    stop.wait(self.restart_s)
        finally:
            self.tree.stop()

    def _wait_for_secret(self, stop: threading.Event) -> bool:
        waited_s, step_s = 0.0, 0.5
        while not (self.work / SECRET).exists():
            if waited_s == TELL_S:
                self.report(f"{self.work / SECRET}: not there yet; start the node with `fedgtv-site join`")
            if stop.wait(step_s):
                return False
            waited_s += step_s
        return True

    def _run_once(self, stop: threading.Event) -> int | None:
        log = NodeLog(self.tree.log)
        self.tree.start(self._command(), self._environment())
        self.report(f"worker started, for the node at {self.node}")
        while self.tree.running and not stop.wait(0.2):
            for line in log.read():
                self.report(line)
        return self.tree.process.returncode if self.tree.process else None

    def _command(self) -> list[str]:
        return launcher_command(self.node, self._secret())

    def _secret(self) -> Path:
        path = self.work / SECRET
        try:
            path.read_bytes()
        except OSError as error:
            raise WorkError(
                f"{path}: cannot be read ({error.strerror}); expected an account in the group of worker.group; start "
                "`fedgtv-site join` anew, which shares it"
            ) from error
        return path

    def _environment(self) -> dict[str, str]:
        environment = flower_environment(self.tree.folder / "flwr")
        direct = ",".join((self.node.rpartition(":")[0], environment["NO_PROXY"]))
        return environment | {"NO_PROXY": direct, "no_proxy": direct, VARIABLE: str(folder_in(self.work))}


def launcher_command(node: str, secret: Path) -> list[str]:
    """Returns what starts the ClientApps of the node at `node` (host:port), proving itself with the secret."""
    command = [sys.executable, "-P", "-m", "client.worker_process", "--insecure"]
    return [*command, "--runtime-api-address", node, "--superexec-auth-secret-file", str(secret.resolve())]


def worker_tree(work: Path) -> ProcessTree:
    """Returns the worker's process, by its place in the work folder."""
    return ProcessTree(NAME, work / NAME)
