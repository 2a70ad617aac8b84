"""A real TLS federation on loopback: one SuperLink and named SuperNodes with their own keys; every process is ended."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.keys import make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.processes import free_port
from server.gateway import Gateway, nginx_path
from server.provision import make_certificates
from server.superlink import Superlink

KEEP_UP_S = 1.0


@dataclass
class Federation:
    """A running federation in `folder`; the keys of `nodes` and `node_ids` are the sites' names."""

    folder: Path
    superlink: Superlink
    gateway: Gateway | None = None
    nodes: dict[str, SiteNode] = field(default_factory=dict)
    node_ids: dict[str, int] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The port that sites call: the gateway's, or the SuperLink's own."""
        return self.gateway.port if self.gateway else self.superlink.port

    def processes(self) -> list[int]:
        """Ids of all processes that the federation has started and that live."""
        trees = [node.tree for node in self.nodes.values()] + ([self.gateway.tree] if self.gateway else [])
        return self.superlink.members() + [each for tree in trees for each in tree.members()]


StartFederation = Callable[..., Federation]


@contextmanager
def starting(folder: Path) -> Iterator[StartFederation]:
    """Gives a function that starts a federation in `folder`; see the fixture `start_federation`."""
    started: list[Federation] = []
    with ExitStack() as stack:

        def start(
            configs: Mapping[str, Path],
            environment: Mapping[str, str] | None = None,
            command: Sequence[str] = (),
            gateway: bool | None = False,
            of_coordinator: Mapping[str, str] | None = None,
            of_site: Mapping[str, Mapping[str, str]] | None = None,
            ways: Mapping[str, Callable[[int], int]] | None = None,
        ) -> Federation:
            threads = {"OMP_NUM_THREADS": "1", **(environment or {})}
            certificates = make_certificates(folder / "pki", ["localhost"])
            superlink = Superlink(
                folder / "coordinator", certificates, free_port(), threads | dict(of_coordinator or {})
            )
            federation = Federation(folder, stack.enter_context(superlink))
            started.append(federation)
            if gateway or (gateway is None and nginx_path()):
                door = Gateway(folder / "gateway", certificates, ["localhost"], free_port(), superlink.upstream)
                federation.gateway = stack.enter_context(door)
            for site, config in configs.items():
                way = (ways or {}).get(site, int)
                around = threads | dict((of_site or {}).get(site, {}))
                _join(federation, site, config, way(federation.port), around, command, stack)
            for site, node in federation.nodes.items():
                assert node.wait_online(90.0) == federation.node_ids[site]
            return federation

        yield start
    for federation in started:
        assert federation.processes() == []


def _join(
    federation: Federation,
    site: str,
    config: Path,
    port: int,
    environment: Mapping[str, str],
    command: Sequence[str],
    stack: ExitStack,
) -> None:
    superlink, folder = federation.superlink, federation.folder / f"site-{site}"
    key = make_key(site, folder / "keys")
    federation.node_ids[site] = superlink.enrol(read_join_request(key.request)).node_id
    node = SiteNode(
        site,
        folder / "node",
        f"localhost:{port}",
        superlink.certificates.authority,
        key.private,
        config,
        command=command,
        environment=environment,
    )
    federation.nodes[site] = stack.enter_context(node)


@contextmanager
def kept_up(federation: Federation) -> Iterator[None]:
    """Starts the SuperLink again within a second of its death, as `fedgtv-coordinator up` does.

    What goes wrong there ends `up`, so it is raised at the block's end.
    """
    stop, faults = threading.Event(), list[BaseException]()

    def keep() -> None:
        try:
            while not stop.wait(KEEP_UP_S):
                federation.superlink.keep_up()
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=keep, name="up")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if faults:
        raise faults[0]
