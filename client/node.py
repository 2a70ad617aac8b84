"""The site's SuperNode: one supervised Flower process that asks the coordinator for work and starts it.

A node holds a lease of two heartbeats at the coordinator: after a hard kill the restarted node is refused (code 2004)
until the old lease has run out, and it exits instead of waiting. So every exit is followed by a restart, later each
time, but for one over an open lease: there the next try follows soon. The code for a key that is not enrolled is the
same 2004: it is final once no lease of this site can be open.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from client.keys import check_key
from client.node_log import REFUSED, UNAUTHENTIC, WRONG_AUTHORITY, NodeLog, left_connected
from client.worker import launcher_command
from client.worker_account import make_secret
from common.enrolment import fingerprint
from common.errors import ConfigError, FedgtvError, SiteError, WorkError
from common.private import private_folder
from common.processes import ProcessTree, flower_environment, free_port

CONFIG_VARIABLE = "FEDGTV_SITE"
"""Environment variable with the path of site.yaml, for the gate in the node's process."""
LAUNCHER_VARIABLE = "FEDGTV_LAUNCHER"
"""Environment variable with the command, as JSON, that starts ClientApps; absent where a worker does."""
BACKOFF_S = (2.0, 5.0, 10.0, 20.0, 30.0)
"""Waits before the first, second ... restart; the last one repeats."""
LEASED_S = 2.0
"""The wait while an old lease is open: it ends within `LEASE_S`, and the node is to be back soon after."""
STEADY_S = 120.0
"""A node that lived this long starts again with the shortest wait."""
HEARTBEAT_S = 20
"""What the node tells the coordinator (Flower: 30): it is held for lost after two without a sign, and may come back."""
LEASE_S = 45.0
"""Twice that, and the time that a last heartbeat may have been on its way."""
LEASED = f"refused, its last connection has not run out; that takes up to {LEASE_S:.0f} s"
ANSWER_S = 30.0
"""A coordinator that has not answered by then is told of, once a start."""


@dataclass(frozen=True)
class WorkerLink:
    """Where the node waits for the worker (host:port), and the file of the secret that both hold."""

    address: str
    secret: Path


@dataclass
class SiteNode:
    """A SuperNode of `site` in `folder` (log, FLWR_HOME), connected to `superlink` (host:port).

    A context manager: it runs in the background after `with`, and is ended with all its processes on leaving.
    """

    site: str
    folder: Path
    superlink: str
    authority: Path
    key: Path
    config: Path
    """The site's site.yaml; it reaches the ClientApp as `context.node_config["config"]`, absolute."""
    port: int = 0
    """Of the node's own API for its ClientApps, on loopback; 0: any free one."""
    worker: WorkerLink | None = None
    """Who starts the ClientApps; None: the node, under its own account."""
    command: Sequence[str] = ()
    """What to start instead of Flower's SuperNode with the site's gate in it; it gets the same arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the inherited environment of node and ClientApp."""
    report: Callable[[str], None] = lambda _line: None
    """Called with a line whenever the node starts, comes online, or ends, and with the site's own lines on its work."""
    backoff_s: Sequence[float] = BACKOFF_S
    leased_s: float = LEASED_S
    lease_s: float = LEASE_S
    answer_s: float = ANSWER_S

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.tree = node_tree(self.folder)
        self.node_id: int | None = None
        self.num_starts = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: FedgtvError | None = None
        self._leased_until = 0.0
        self._was_online = False
        self._ended = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the node and a thread that keeps it running; returns at once."""
        self._stop.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._supervise_quietly, name=f"site-node-{self.site}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the node and every process it started; the coordinator sees it offline at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait_online(self, timeout_s: float) -> int:
        """Returns the node's Flower id once the coordinator has accepted it.

        Raises:
            WorkError: it has not within `timeout_s`, or never will; the log's last reason is named.
            SiteError: the coordinator does not accept the key.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._failure is not None:
                raise self._failure
            if self.node_id is not None:
                return self.node_id
            time.sleep(0.1)
        raise WorkError(f"site {self.site}: not online within {timeout_s:.0f} s; see {self.tree.log}")

    def run(self, stop: threading.Event) -> None:
        """Keeps the node running in this thread until `stop` is set.

        Raises:
            WorkError: no restart can help: the coordinator's certificate does not fit.
            SiteError: no restart can help: the coordinator does not accept the key.
        """
        attempt, self._ended = 0, ""
        self._was_online = False
        self._leased_until = time.monotonic() + (self.lease_s if left_connected(self.tree.log) else 0.0)
        try:
            while not stop.is_set():
                started = time.monotonic()
                reason = self._run_once(stop)
                if stop.is_set():
                    return
                attempt = 0 if time.monotonic() - started > STEADY_S else attempt
                pause_s = self.backoff_s[min(attempt, len(self.backoff_s) - 1)]
                if reason == LEASED:
                    pause_s = self.leased_s
                else:
                    attempt += 1
                self._tell_unless_leased(reason, f"node ended ({reason}); starting it again in {pause_s:.0f} s")
                self._ended = reason
                stop.wait(pause_s)
        finally:
            self.node_id = None
            self.tree.stop()

    def _supervise_quietly(self) -> None:
        try:
            self.run(self._stop)
        except FedgtvError as error:
            self._failure = error
            self.report(str(error))

    def _run_once(self, stop: threading.Event) -> str:
        """Starts the node, follows it until it or `stop` ends it, and returns why it ended."""
        log = NodeLog(self.tree.log)
        self.node_id = None
        self.num_starts += 1
        link = self.worker or self._own_link()
        started = time.monotonic()
        self.tree.start(self._command(link), self._environment(link))
        self._tell_unless_leased(self._ended, f"node started, calling {self.superlink}")
        patience_until: float | None = time.monotonic() + self.answer_s
        while self.tree.running and not stop.wait(0.2):
            self._pass_on(log)
            if patience_until and self.node_id is None and time.monotonic() > patience_until:
                patience_until = None
                self.report(f"no answer from {self.superlink} yet; is the address right and the way open? still trying")
        self._pass_on(log)
        if log.connected:
            self._leased_until = time.monotonic() + self.lease_s
        self.node_id = None
        return "stopped" if stop.is_set() else self._why(log, started)

    def _tell_unless_leased(self, reason: str, line: str) -> None:
        """Tells that an old lease is open once, and not every few seconds while it is."""
        if not reason == self._ended == LEASED:
            self.report(line)

    def _pass_on(self, log: NodeLog) -> None:
        lines = log.read()
        if self.node_id is None and log.node_id is not None:
            self.node_id, self._was_online = log.node_id, True
            self.report(f"node online as {self.node_id}")
        for line in lines:
            self.report(line)

    def _why(self, log: NodeLog, started: float) -> str:
        """Returns why a node ended, by its log; raises what a restart cannot mend (see `run`).

        Whether a lease was open is judged by when the node was started: on a busy machine it may end much later.
        """
        if WRONG_AUTHORITY in log.refusals:
            raise WorkError(
                f"site {self.site}: {self.superlink}: its certificate is not for this name or not signed by "
                f"{self.authority}; ask the coordinator for ca.crt and the right name"
            )
        if REFUSED in log.refusals and started > self._leased_until:
            raise self._not_accepted()
        if REFUSED in log.refusals:
            return LEASED
        if UNAUTHENTIC in log.refusals:
            return "refused, this clock and the coordinator's differ; set both by NTP"
        return f"exit code {self.tree.process.returncode if self.tree.process else None}"

    def _not_accepted(self) -> SiteError:
        accepts = "no longer accepts" if self._was_online else "does not accept"
        key = f"site {self.site}'s key {fingerprint(check_key(self.key))}"
        return SiteError(
            f"{self.superlink} {accepts} {key}; ask the coordinator to enrol this key; if it was revoked, move "
            f"{self.key.parent} away and make another with fedgtv-site init {self.site}; if another machine uses it, "
            "stop that one first"
        )

    def _own_link(self) -> WorkerLink:
        """For a launcher of this account's own, on loopback; other users of this machine lack its secret."""
        return WorkerLink(f"127.0.0.1:{self.port or free_port()}", make_secret(private_folder(self.folder)))

    def _command(self, link: WorkerLink) -> list[str]:
        settings = f"site={_setting(self.site)} config={_setting(str(self.config.resolve()))}"
        command = list(self.command) or [sys.executable, "-P", "-m", "client.node_process"]
        command += ["--superlink", self.superlink, "--root-certificates", str(self.authority.resolve())]
        command += ["--auth-supernode-private-key", str(self.key.resolve()), "--node-config", settings]
        return command + self._clientapps(link)

    def _clientapps(self, link: WorkerLink) -> list[str]:
        """What lets only those start ClientApps who have the secret; Flower's own SuperNode starts them itself."""
        host, _, port = link.address.rpartition(":")
        if self.command:
            return ["--isolation", "subprocess", "--host", host, "--port", port]
        secret = ["--superexec-auth-secret-file", str(link.secret.resolve())]
        return ["--isolation", "process", *secret, "--host", host, "--port", port]

    def _environment(self, link: WorkerLink) -> dict[str, str]:
        mine = {CONFIG_VARIABLE: str(self.config.resolve())}
        if self.worker is None and not self.command:
            mine[LAUNCHER_VARIABLE] = json.dumps(launcher_command(link.address, link.secret))
        return flower_environment(self.folder / "flwr", {**self.environment, **mine})


def node_tree(folder: Path) -> ProcessTree:
    """Returns the node's process, by the folder of its log."""
    return ProcessTree("supernode", folder)


def _setting(value: str) -> str:
    """Quotes a node setting; Flower reads it as TOML after splitting at blanks outside quotes.

    Raises:
        ConfigError: no quoting can carry it.
    """
    if any(character in value for character in "\"'\\") or not value.isprintable():
        raise ConfigError(f"{value!r}: holds a quote, backslash or control character; choose another path or name")
    return f'"{value}"'
