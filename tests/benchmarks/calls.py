"""What a call costs the coordinator, apart from a model's bytes: constants of `deploy/scale.py`.

The product's SuperLink behind its gateway, called by nodes without a site, and by a ServerApp that does nothing but
look for replies. Processor seconds of the SuperLink and of the gateway, a call; then the memory that they take while
sites download slowly.

Run by hand: PYTHONPATH=.:tests .venv/bin/python tests/benchmarks/calls.py
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import _family
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from faults.proxy import Link, Proxy
from federation.flower_app import write_app
from federation.running import Federation, starting
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supernode.fleet_http_connection import http_request_response

from client.keys import make_key
from client.transfers import downloaded
from common.enrolment import read_join_request
from deploy.memory import proportional_bytes

NUM_NODES, NUM_MESSAGES, NUM_CALLS = 8, 100, 1600
PART_BYTES = 5 << 20
HELD = 128
"""Downloads at a time."""
HELD_S = 30.0
NARROW = Link(bits_per_s=20e6)
"""Of all nodes together, so that none of these downloads ends while memory is looked at."""
PHASES = {"a look of the ServerApp for one reply": (1, 200), "for 800": (NUM_NODES * NUM_MESSAGES, 20)}
"""Ids, looks."""
SERVER = f"""\
import time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    folder = Path(context.run_config["folder"])
    nodes = list(grid.get_node_ids())
    part = RecordDict({{"arrays": ArrayRecord({{"a": Array(np.zeros({PART_BYTES}, np.uint8))}})}})
    grid.push_messages([Message(part, node, "query.part") for node in nodes])
    ids = []
    for _ in range({NUM_MESSAGES}):
        ids += grid.push_messages([Message(RecordDict(), node, "query.small") for node in nodes])
    for number, (num_ids, num_looks) in enumerate({list(PHASES.values())}):
        while not (folder / f"go-{{number}}").exists():
            time.sleep(0.05)
        for _ in range(num_looks):
            grid.pull_messages(ids[:num_ids])
        (folder / f"done-{{number}}").touch()
    while True:
        time.sleep(1.0)
"""
CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


class Coordinator:
    """A SuperLink behind a gateway: what they use."""

    def __init__(self, federation: Federation) -> None:
        assert federation.gateway is not None, "nginx is not installed"
        self.parts = {"SuperLink": federation.superlink.tree, "gateway": federation.gateway.tree}

    def cost(self, work: Callable[[], Any], num_calls: int) -> dict[str, float]:
        """Processor milliseconds a call of each part."""
        before = self._seconds()
        work()
        return {part: 1e3 * (seconds - before[part]) / num_calls for part, seconds in self._seconds().items()}

    def _seconds(self) -> dict[str, float]:
        return {part: sum(map(_seconds_of, tree.members())) for part, tree in self.parts.items()}

    def memory(self) -> dict[str, float]:
        """MB of each part."""
        return {part: sum(map(proportional_bytes, tree.members())) / 1e6 for part, tree in self.parts.items()}


def _seconds_of(process_id: int) -> float:
    return _family._processor_s(Path(f"/proc/{process_id}/stat").read_text())


@contextlib.contextmanager
def nodes(federation: Federation, folder: Path, port: int) -> Iterator[list[tuple[Any, ...]]]:
    """Enrols nodes and connects them to `port`: Flower's calls of each."""
    authority = str(federation.superlink.certificates.authority)
    with ExitStack() as stack:
        connected = []
        for number in range(NUM_NODES):
            key = make_key(f"N{number}", folder / f"N{number}")
            federation.superlink.enrol(read_join_request(key.request))
            private = load_ssh_private_key(key.private.read_bytes(), None)
            pair = (private, private.public_key())
            connected.append(stack.enter_context(http_request_response(f"localhost:{port}", False, authority, pair)))
        yield connected


def looks(connected: Sequence[tuple[Any, ...]]) -> None:
    """Every node looks for a message, again and again; there is none."""

    def look(node: tuple[Any, ...]) -> None:
        for _ in range(NUM_CALLS // len(connected)):
            assert node[1]() is None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, connected))


def held_downloads(coordinator: Coordinator, parts: Sequence[Callable[[], bytes]]) -> dict[str, float]:
    """MB that each download of a part takes while it goes on, with many at the same time."""
    before = coordinator.memory()
    pool = ThreadPoolExecutor(HELD)
    for number in range(HELD):
        pool.submit(parts[number % len(parts)])
    time.sleep(HELD_S)
    used = coordinator.memory()
    pool.shutdown(wait=False, cancel_futures=True)
    return {part: (num_mb - before[part]) / HELD for part, num_mb in used.items()}


def received_parts(connected: Sequence[tuple[Any, ...]], run_id: int) -> list[Callable[[], bytes]]:
    """What downloads the part that each node was sent."""
    found = []
    for node in connected:
        receive, pull = node[1], partial(node[5], run_id)
        _, tree = _until(receive)
        contents = downloaded([each.object_id for each in iterate_object_tree(tree)], pull)
        found.append(partial(pull, max(contents, key=lambda name: len(contents[name]))))
    return found


def _until(look: Callable[[], Any]) -> Any:
    while (found := look()) is None:
        time.sleep(0.1)
    return found


def phase(folder: Path, number: int) -> None:
    """Has the ServerApp look, and waits until it has."""
    (folder / f"go-{number}").touch()
    _until(lambda: (folder / f"done-{number}").exists() or None)


def main() -> None:
    """Prints a row for each call, and for the memory of downloads."""
    with tempfile.TemporaryDirectory(prefix="calls-") as name, starting(Path(name) / "federation") as start:
        folder = Path(name)
        federation = start({}, gateway=True)
        coordinator = Coordinator(federation)
        with Proxy(federation.port, NARROW) as proxy, nodes(federation, folder, proxy.port) as connected:
            print("| | SuperLink | gateway |\n|---|---:|---:|")
            _print("a look of a node that finds nothing, ms", coordinator.cost(lambda: looks(connected), NUM_CALLS))
            control = federation.superlink.control
            app = write_app(folder / "app", "calls", CLIENT, SERVER, ("folder",))
            run_id = control.run(app, {"folder": name})
            parts = received_parts(connected, run_id)
            for number, (what, (_, num_looks)) in enumerate(PHASES.items()):
                _print(f"{what}, ms", coordinator.cost(partial(phase, folder, number), num_looks))
            _print(f"a download of {PART_BYTES >> 20} MiB under way, MB", held_downloads(coordinator, parts))
            control.stop(run_id)


def _print(what: str, of: dict[str, float]) -> None:
    print(f"| {what} | {of['SuperLink']:.2f} | {of['gateway']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
