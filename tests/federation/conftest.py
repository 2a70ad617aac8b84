"""Fixtures of real federations; every process is ended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation.running import Federation, StartFederation, starting

from server.gateway import nginx_path


@pytest.fixture(scope="session")
def nginx() -> str:
    """Path of nginx; a test that needs it is skipped where there is none."""
    found = nginx_path()
    if found is None:
        pytest.skip("nginx is not installed; on Debian: make nginx")
    return found


@pytest.fixture
def start_federation(tmp_path: Path) -> Iterator[StartFederation]:
    """Returns start(configs: site -> site.yaml, ...) -> Federation, all online; ended after.

    `environment`: of all processes; `of_coordinator`, `of_site` (by site): of theirs alone. `command`: of the nodes,
    such as Flower's own SuperNode without the site's gate; none: the product's. `gateway`: True: sites call nginx
    before the SuperLink; None: if it is installed. `ways`: by site, a function from the port that sites call to the
    one that this site calls instead.
    """
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_lasting_federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFederation]:
    """As `start_federation`, for all tests of a file."""
    with starting(tmp_path_factory.mktemp("federation")) as start:
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
