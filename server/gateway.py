"""The gateway: nginx in front of the SuperLink, which lets the calls of sites' nodes through and nothing else.

Flower serves the sites' API, its unauthenticated control API and its runtime API on one port. nginx ends the sites'
TLS with the federation's certificate, answers 404 to all but ten POSTs, bounds their bodies, rates and times, and calls
the SuperLink on loopback, over TLS again. The parts of models it moves itself, from file and to file, as the SuperLink
tells it for each call.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from common.atomic import write_text_atomically
from common.errors import WorkError
from common.private import closed_folder
from common.processes import ProcessTree
from server.daemons import HOST, start_daemon
from server.provision import LOOPBACK, Certificates

START_S = 20.0
LARGEST_MB = 16
"""Of one body. Flower cuts arrays into objects of 5 MB; the largest single record of ours holds a site's pictures."""
SMALL, LARGE = "64k", f"{LARGEST_MB}m"
HANDS_OUT, BODY_FILE = "x-hands-out-objects", "x-body-file"
"""Headers of the gateway's calls to the SuperLink, in the place of what a site has put there: that it can hand out the
files of objects, and where the body of this call lies."""
OBJECTS = "objects"
"""The folder with the contents of objects, and where the gateway has it; no call from outside leads there."""
REFUSED = "refused.jsonl"
"""What the gateway or the SuperLink refused, one JSON line a call."""


@dataclass(frozen=True)
class FleetCall:
    """One call that passes: the last part of its path, how large its body may be, how often it may come."""

    name: str
    largest: str = SMALL
    zone: str = "calls"
    burst: int = 2000
    carries: bool = False
    """Whether it carries a part of a model, for minutes on a slow line: then it counts apart from all others, which
    would have to wait for it; a node whose sign of life has to wait is held for lost."""


CALLS = (
    FleetCall("activate-node", zone="logins", burst=20),
    FleetCall("deactivate-node", zone="logins", burst=20),
    FleetCall("send-node-heartbeat"),
    FleetCall("pull-messages"),
    FleetCall("push-messages", LARGE),
    FleetCall("get-run"),
    FleetCall("get-fab"),
    FleetCall("push-object", LARGE, carries=True),
    FleetCall("pull-object", carries=True),
    FleetCall("confirm-message-received"),
)
"""What a SuperNode of Flower 1.41 calls; `register-node` and `unregister-node` are the coordinator's alone."""


@dataclass(frozen=True)
class Upstream:
    """What the gateway stands before, and shares the parts of models with."""

    address: str
    """host:port of the SuperLink."""
    objects: Path
    """Where the contents of Flower's objects lie."""
    bodies: Path
    """Where the gateway puts the bodies of calls that bring such, for as long as the call takes."""


def nginx_config(names: Sequence[str], port: int, superlink: Upstream, certificates: Certificates, folder: Path) -> str:
    """Returns the gateway's nginx configuration.

    Args:
        names: the certificate's; the gateway listens on loopback only if all of them are loopback.
        port: that the sites call.
        superlink: the one behind it.
        certificates: of the federation.
        folder: for what nginx writes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=templates, undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    resolved = {name: path.resolve() for name, path in vars(certificates).items()}
    return environment.get_template("nginx.conf").render(
        names=names,
        listens=_listens(names, port),
        superlink=superlink,
        hands_out=HANDS_OUT,
        body_file=BODY_FILE,
        objects=OBJECTS,
        certificates=resolved,
        folder=folder.resolve(),
        refused=folder.resolve() / REFUSED,
        calls=CALLS,
        largest_mb=LARGEST_MB,
    )


@dataclass
class Gateway:
    """nginx in `folder` (configuration, log, refused.jsonl), on `port`, before `superlink`.

    A context manager: up after `with`, ended on leaving.
    """

    folder: Path
    certificates: Certificates
    names: Sequence[str]
    port: int
    superlink: Upstream

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.tree = ProcessTree("gateway", self.folder)

    @property
    def refused(self) -> Path:
        """The refused calls, one JSON line each."""
        return self.folder / REFUSED

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = START_S) -> None:
        """Starts nginx and returns when the port answers with our certificate.

        Raises:
            WorkError: nginx is not installed, the port is taken, or nginx ends; the log's end is quoted.
        """
        nginx = find_nginx()
        (self.folder / "temporary").mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in closed_folder(self.superlink.bodies).iterdir():  # by one that was killed
            left.unlink(missing_ok=True)
        path = self.folder / "nginx.conf"
        config = nginx_config(self.names, self.port, self.superlink, self.certificates, self.folder)
        write_text_atomically(path, config)
        command = [nginx, "-p", str(self.folder), "-e", "stderr", "-c", str(path)]
        start_daemon(self.tree, command, os.environ, self.port, self.certificates.authority, timeout_s)

    def stop(self) -> None:
        """Ends nginx."""
        self.tree.stop()

    def keep_up(self) -> None:
        """Starts nginx again if it has died."""
        if not self.tree.running:
            self.start()

    def num_refused(self) -> int:
        """How many calls `refused` holds."""
        if not self.refused.exists():
            return 0
        with self.refused.open("rb") as lines:
            return sum(1 for _ in lines)


def nginx_path() -> str | None:
    """Where nginx is installed; None where it is not."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def find_nginx() -> str:
    """Returns the path of nginx (WorkError: not installed)."""
    found = nginx_path()
    if found is None:
        raise WorkError(
            "nginx: not found; it is the gateway that sites on other machines call; install it (Debian: apt-get "
            "install nginx-light), or start `up --no-gateway` and put your own gateway in front"
        )
    return found


def only_loopback(names: Sequence[str]) -> bool:
    """Returns whether all names lead to this machine alone, so that no gateway is needed."""
    return all(name in LOOPBACK or name.startswith("127.") for name in names)


def _listens(names: Sequence[str], port: int) -> list[str]:
    if only_loopback(names):
        return [f"{HOST}:{port}"]
    return [str(port), *([f"[::]:{port}"] if _has_ipv6() else [])]


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False
