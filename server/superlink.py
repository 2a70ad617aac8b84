"""The coordinator's SuperLink: supervised Flower processes on loopback, with TLS, node authentication and a database.

Flower serves the sites' API, its unauthenticated control API and its runtime API on one port. So the port is bound to
loopback. Sites on other machines reach it through the gateway, which lets their calls through and nothing else.
"""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from common.atomic import OWNERS, write_bytes_atomically
from common.enrolment import JoinRequest
from common.processes import ProcessTree, flower_command, flower_environment
from server import BODIES_VARIABLE, OBJECTS_VARIABLE, RUNS_VARIABLE
from server.control import Control
from server.daemons import HOST, start_daemon
from server.gateway import OBJECTS, Upstream
from server.provision import Certificates, EnrolledSite, add_site, check_new_site, find_site, remove_site

START_S = 60.0


@dataclass
class Superlink:
    """A SuperLink in `folder` (database, objects/, log, FLWR_HOME, sites.json, runs/), on loopback `port`.

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
        self.launcher = ProcessTree("superexec", self.folder)  # starts the ServerApps, and alone may ask for their work

    @property
    def address(self) -> str:
        """host:port that the coordinator's own processes call."""
        return f"{HOST}:{self.port}"

    @property
    def sites_file(self) -> Path:
        """The enrolment record."""
        return self.folder / "sites.json"

    @property
    def secret(self) -> Path:
        """What the launcher proves itself with, made anew at every start."""
        return self.folder / "superexec.secret"

    @property
    def runs_folder(self) -> Path:
        """Where the run folders lie."""
        return self.folder / "runs"

    @property
    def objects(self) -> Path:
        """Where the contents of Flower's objects lie, which the gateway hands out."""
        return self.folder / OBJECTS

    @property
    def bodies(self) -> Path:
        """Where the gateway puts what sites upload, until the SuperLink has taken it."""
        return self.folder / "bodies"

    @property
    def upstream(self) -> Upstream:
        """What the gateway before it knows of it."""
        return Upstream(self.address, self.objects, self.bodies)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = START_S) -> None:
        """Starts the processes and returns when the port answers with our certificate.

        Raises:
            WorkError: the port is taken, another coordinator owns the folder, or Flower ends; the log's end is quoted.
        """
        try:
            self.tree.claim()
            self.launcher.claim()  # and ends the ServerApps of a SuperLink that died
            self.runs_folder.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(self.secret, secrets.token_bytes(32), OWNERS)
            environment = self._environment()
            self.control.configure(self.address, self.certificates.authority)  # before it answers: `Control.started`
            start_daemon(self.tree, self._command(), environment, self.port, self.certificates.authority, timeout_s)
            self.launcher.start(self._launcher_command(), environment)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the SuperLink and every process it started; the database stays."""
        try:
            self.launcher.stop()
        finally:
            self.tree.stop()

    def members(self) -> list[int]:
        """Ids of all processes of the SuperLink that live."""
        return self.tree.members() + self.launcher.members()

    def keep_up(self) -> None:
        """Starts again what has died.

        A run that was under way when the SuperLink died has lost its ServerApp; whoever watches it starts it again, and
        the ledger lets it continue.
        """
        if not self.tree.running:
            self.start()
        elif not self.launcher.running:
            self.launcher.start(self._launcher_command(), self._environment())

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
        command += ["--database", str(self.folder / "state.db"), "--superexec-auth-secret-file", str(self.secret)]
        return [*command, "--isolation", "process", "--disable-runtime-dependency-installation"]

    def _launcher_command(self) -> list[str]:
        command = [flower_command("flower-superexec"), "--runtime-api-address", self.address]
        command += ["--root-certificates", str(self.certificates.authority.resolve())]
        return [*command, "--superexec-auth-secret-file", str(self.secret)]

    def _environment(self) -> dict[str, str]:
        ours = {RUNS_VARIABLE: self.runs_folder, OBJECTS_VARIABLE: self.objects, BODIES_VARIABLE: self.bodies}
        return flower_environment(
            self.control.home, {**{name: str(path) for name, path in ours.items()}, **self.environment}
        )
