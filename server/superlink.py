"""The coordinator's SuperLink: one supervised Flower process on loopback, with TLS, node authentication and a database.

Flower serves the sites' API, its unauthenticated control API and its runtime API on one port. So the port is bound to
loopback. For sites on other machines it needs a gateway in front of it that lets the sites' calls through and nothing
else; there is none yet.
"""

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from common.enrolment import JoinRequest
from common.errors import WorkError
from common.processes import ProcessTree, flower_environment
from server import RUNS_VARIABLE
from server.control import Control
from server.provision import Certificates, EnrolledSite, add_site, check_new_site, find_site, remove_site

HOST = "127.0.0.1"
START_S = 60.0


@dataclass
class Superlink:
    """A SuperLink in `folder` (database, log, FLWR_HOME, sites.json, runs/), on loopback `port`.

    A context manager: up after `with`, ended with all its processes on leaving.
    """

    folder: Path
    certificates: Certificates
    port: int = 8443
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the inherited environment of SuperLink and ServerApp."""

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.control = Control(self.folder / "flwr")
        self.tree = ProcessTree("superlink", self.folder)

    @property
    def address(self) -> str:
        """host:port that the coordinator's own processes call."""
        return f"{HOST}:{self.port}"

    @property
    def sites_file(self) -> Path:
        """The enrolment record."""
        return self.folder / "sites.json"

    @property
    def runs_folder(self) -> Path:
        """Where the run folders lie."""
        return self.folder / "runs"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = START_S) -> None:
        """Starts the process and returns when its port answers with our certificate.

        Raises:
            WorkError: the port is taken, another coordinator owns the folder, or Flower ends; the log's end is quoted.
        """
        if _answers(self.port):
            raise WorkError(f"port {self.port}: taken by another process; stop it, or choose another port")
        self.runs_folder.mkdir(parents=True, exist_ok=True)
        self.control.configure(self.address, self.certificates.authority)
        log_start = self.tree.log_size()
        self.tree.start(self._command(), self._environment())
        try:
            self._wait_until_up(timeout_s, log_start)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the SuperLink and every process it started; the database stays."""
        self.tree.stop()

    def supervise(self, stop: threading.Event, poll_s: float = 1.0) -> None:
        """Keeps the SuperLink up until `stop` is set, starting it again when it dies.

        A run that was under way when it died is failed by Flower; the coordinator starts it again and the ledger lets
        it continue.
        """
        while not stop.wait(poll_s):
            if not self.tree.running:
                self.start()

    def enrol(self, request: JoinRequest) -> EnrolledSite:
        """Registers a site's key and records its node id (SiteError for a name or key that is taken)."""
        check_new_site(self.sites_file, request)
        return add_site(self.sites_file, request, self.control.register(request))

    def revoke(self, site: str) -> EnrolledSite:
        """Shuts a site out; it can only come back with a new key (SiteError for an unknown one)."""
        known = find_site(self.sites_file, site)
        self.control.unregister(known.node_id)
        return remove_site(self.sites_file, site)

    def _command(self) -> list[str]:
        files = self.certificates
        command = [sys.executable, "-m", "server.superlink_process", "--host", HOST, "--port", str(self.port)]
        command += ["--ssl-certfile", str(files.certificate.resolve()), "--ssl-keyfile", str(files.key.resolve())]
        command += ["--ssl-ca-certfile", str(files.authority.resolve()), "--enable-supernode-auth"]
        command += ["--database", str(self.folder / "state.db")]
        return [*command, "--isolation", "subprocess", "--disable-runtime-dependency-installation"]

    def _environment(self) -> dict[str, str]:
        ours = {RUNS_VARIABLE: str(self.runs_folder)}
        return flower_environment(self.control.home, {**ours, **self.environment})

    def _wait_until_up(self, timeout_s: float, log_start: int) -> None:
        deadline = time.monotonic() + timeout_s
        while not _speaks_tls(self.port, self.certificates.authority):
            if not self.tree.running:
                raise WorkError(f"the SuperLink ended at once: {_last_lines(self.tree.tail(log_start))}")
            if time.monotonic() > deadline:
                raise WorkError(f"port {self.port}: no answer within {timeout_s:.0f} s; see {self.tree.log}")
            time.sleep(0.1)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def _speaks_tls(port: int, authority: Path) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, port), timeout=2.0) as plain,
        context.wrap_socket(plain, server_hostname=HOST),
    ):
        return True
    return False


def _last_lines(text: str, num_lines: int = 5) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-200 * num_lines :]
