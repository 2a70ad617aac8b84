"""A federation of A, B and C that lasts for all tests of a file, and which of its processes is what."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.running import Federation

SITES = ("A", "B", "C")
SERVERAPP, CLIENTAPP = "flwr-serverapp", "flwr-clientapp"
AT_REST = Counter({"server.superlink_process": 1, "flower-superexec": 1})
"""Processes of a coordinator without work."""
AT_REST_A_SITE = Counter({"client.node_process": 1, "client.worker_process": 1})
ROLES = (SERVERAPP, CLIENTAPP, *AT_REST, *AT_REST_A_SITE)
END_S = 40.0
"""A process whose run has ended may live so long."""


@dataclass(frozen=True)
class Standing:
    """A running federation and each site's site.yaml."""

    federation: Federation
    configs: Mapping[str, Path]

    def serverapps(self) -> list[int]:
        """Process ids of the ServerApps at work."""
        return [each for each in self.federation.superlink.launcher.members() if role(each) == SERVERAPP]

    def clientapps(self, sites: Sequence[str] = SITES) -> dict[int, str]:
        """Process ids of the ClientApps at work, and their sites."""
        members = {each: site for site in sites for each in self.federation.nodes[site].tree.members()}
        return {each: site for each, site in members.items() if role(each) == CLIENTAPP}

    def assert_at_rest(self) -> None:
        """Waits until nothing runs but what waits for work, each once."""
        wanted, found = AT_REST + _times(AT_REST_A_SITE, len(self.configs)), Counter[str]()
        deadline = time.monotonic() + END_S
        while found != wanted and time.monotonic() < deadline:
            time.sleep(0.5)
            found = Counter(filter(None, map(role, self.federation.processes())))
        assert found == wanted


def role(process_id: int) -> str | None:
    """What a process of a federation is; None for one that has ended, and for what is none of `ROLES`.

    A ClientApp is forked, with the command line of what it was forked from, and has a name of its own.
    """
    try:
        words = Path(f"/proc/{process_id}/cmdline").read_bytes().decode().split("\0")
        names = [Path(word).name for word in words[:4]] + [Path(f"/proc/{process_id}/comm").read_text().strip()]
    except OSError:
        return None
    return next((each for each in ROLES if each in names), None)


def make_site(folder: Path, site: str, cases: Path, **fields: object) -> Path:
    """Writes a site.yaml in `folder`, whose cases lie in `cases`, and returns its path."""
    folder.mkdir(parents=True)
    record = {"site": site, "cases": str(cases), "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1}}
    (folder / "site.yaml").write_text(json.dumps(record | fields))
    return folder / "site.yaml"


def until(met: Callable[[], object], timeout_s: float, poll_s: float = 0.1) -> float:
    """Waits until `met` and returns how many seconds that took; fails after `timeout_s`."""
    started = time.monotonic()
    while not met():
        assert time.monotonic() - started < timeout_s, f"not within {timeout_s:.0f} s"
        time.sleep(poll_s)
    return time.monotonic() - started


def _times(counts: Counter[str], number: int) -> Counter[str]:
    return Counter({key: value * number for key, value in counts.items()})
