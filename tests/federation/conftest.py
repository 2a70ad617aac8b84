"""A real TLS federation on loopback: one SuperLink and named SuperNodes with their own keys; every process is ended."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client.keys import make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.processes import free_port
from server.gateway import Gateway, nginx_path
from server.provision import make_certificates
from server.superlink import Superlink


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


@pytest.fixture(scope="session")
def nginx() -> str:
    """Path of nginx; a test that needs it is skipped where there is none."""
    found = nginx_path()
    if found is None:
        pytest.skip("nginx is not installed; on Debian: make nginx")
    return found


@pytest.fixture
def start_federation(tmp_path: Path) -> Iterator[StartFederation]:
    """Returns start(configs: site -> site.yaml, environment, command, gateway) -> Federation, all online; ended after.

    `command`: of the nodes, such as Flower's own SuperNode without the site's gate; none: the product's.
    `gateway`: True: sites call nginx before the SuperLink; None: if it is installed.
    """
    with _starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_lasting_federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFederation]:
    """As `start_federation`, for all tests of a file."""
    with _starting(tmp_path_factory.mktemp("federation")) as start:
        yield start


@pytest.fixture(scope="module")
def two_sites(
    tmp_path_factory: pytest.TempPathFactory, tiny_cases: Path, nginx: str, start_lasting_federation: StartFederation
) -> Federation:
    """A federation of A and B behind nginx, for all tests of a file."""
    folder, configs = tmp_path_factory.mktemp("sites"), {}
    for site in "AB":
        configs[site] = folder / site / "site.yaml"
        configs[site].parent.mkdir()
        record = {"site": site, "cases": str(tiny_cases), "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1}}
        configs[site].write_text(json.dumps(record))
    return start_lasting_federation(configs, gateway=True)


@contextmanager
def _starting(folder: Path) -> Iterator[StartFederation]:
    started: list[Federation] = []
    with ExitStack() as stack:

        def start(
            configs: Mapping[str, Path],
            environment: Mapping[str, str] | None = None,
            command: Sequence[str] = (),
            gateway: bool | None = False,
        ) -> Federation:
            threads = {"OMP_NUM_THREADS": "1", **(environment or {})}
            certificates = make_certificates(folder / "pki", ["localhost"])
            superlink = Superlink(folder / "coordinator", certificates, free_port(), threads)
            federation = Federation(folder, stack.enter_context(superlink))
            started.append(federation)
            if gateway or (gateway is None and nginx_path()):
                door = Gateway(folder / "gateway", certificates, ["localhost"], free_port(), superlink.address)
                federation.gateway = stack.enter_context(door)
            for site, config in configs.items():
                _join(federation, site, config, threads, command, stack)
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
        f"localhost:{federation.port}",
        superlink.certificates.authority,
        key.private,
        config,
        command=command,
        environment=environment,
    )
    federation.nodes[site] = stack.enter_context(node)
