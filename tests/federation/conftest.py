"""A real TLS federation on loopback: one SuperLink and named SuperNodes with their own keys; every process is ended."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client.keys import make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.processes import free_port
from server.provision import make_certificates
from server.superlink import Superlink


@dataclass
class Federation:
    """A running federation in `folder`; the keys of `nodes` and `node_ids` are the sites' names."""

    folder: Path
    superlink: Superlink
    nodes: dict[str, SiteNode] = field(default_factory=dict)
    node_ids: dict[str, int] = field(default_factory=dict)

    def processes(self) -> list[int]:
        """Ids of all processes that the federation has started and that live."""
        return self.superlink.tree.members() + [each for node in self.nodes.values() for each in node.tree.members()]


StartFederation = Callable[..., Federation]


@pytest.fixture
def start_federation(tmp_path: Path) -> Iterator[StartFederation]:
    """Returns start(configs: site -> site.yaml, environment, command) -> Federation, all online; ended after the test.

    `command`: of the nodes, such as Flower's own SuperNode without the site's gate; none: the product's.
    """
    with ExitStack() as stack:
        started: list[Federation] = []

        def start(
            configs: Mapping[str, Path], environment: Mapping[str, str] | None = None, command: Sequence[str] = ()
        ) -> Federation:
            threads = {"OMP_NUM_THREADS": "1", **(environment or {})}
            certificates = make_certificates(tmp_path / "pki", ["localhost"])
            superlink = Superlink(tmp_path / "coordinator", certificates, free_port(), threads)
            federation = Federation(tmp_path, stack.enter_context(superlink))
            started.append(federation)
            for site, config in configs.items():
                _join(federation, site, config, threads, command, stack)
            for site, node in federation.nodes.items():
                assert node.wait_online(60.0) == federation.node_ids[site]
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
        f"localhost:{superlink.port}",
        superlink.certificates.authority,
        key.private,
        config,
        command=command,
        environment=environment,
    )
    federation.nodes[site] = stack.enter_context(node)
