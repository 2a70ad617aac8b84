"""What a call costs the coordinator, apart from a model's bytes: constants of `deploy/scale.py`.

The product's SuperLink behind its gateway, called by nodes without a site, and by a ServerApp that does nothing but
look for replies. Processor seconds of the SuperLink and of the gateway, a call; then the memory that they take while
sites download slowly.

Run by hand: PYTHONPATH=.:tests .venv/bin/python tests/benchmarks/calls.py
"""

import argparse
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
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supernode.fleet_http_connection import http_request_response

from client.keys import make_key
from client.node_gate import _send
from client.node_queue import Link as Calls
from client.transfers import downloaded
from common import wire
from common.enrolment import read_join_request
from common.tasks import SiteProgress
from deploy.memory import proportional_bytes

NUM_NODES, NUM_MESSAGES, NUM_CALLS = 8, 100, 1600
NUM_QUESTIONS = 20
"""To each node."""
PART_BYTES = 5 << 20
HELD = 128
"""Downloads at a time."""
HELD_S = 30.0
NARROW = Link(bits_per_s=20e6)
"""Of all nodes together, so that none of these downloads ends while memory is looked at."""
LOOKS = {"a look of the ServerApp for 1 reply, ms": (1, 200), "for 800, ms": (NUM_NODES * NUM_MESSAGES, 20)}
"""Ids, looks."""
SERVER = f"""\
import os, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from common import wire
from common.tasks import ProgressTask
from server import OBJECTS_VARIABLE
from common.object_files import ObjectFiles
from server.object_shortcut import take_shortcut

app = ServerApp()

@app.main()
def main(grid, context):
    folder = Path(context.run_config["folder"])
    take_shortcut(grid, ObjectFiles(Path(os.environ[OBJECTS_VARIABLE])))
    nodes = list(grid.get_node_ids())

    def phase(number):
        (folder / f"ready-{{number}}").touch()
        while not (folder / f"go-{{number}}").exists():
            time.sleep(0.05)

    def done(number):
        (folder / f"done-{{number}}").touch()

    part = RecordDict({{"arrays": ArrayRecord({{"a": Array(np.zeros({PART_BYTES}, np.uint8))}})}})
    grid.push_messages([Message(part, node, "query.part") for node in nodes])
    phase("questions")
    for _ in range({NUM_QUESTIONS}):
        asked = [Message(wire.task_record(ProgressTask(experiment="e")), node, wire.PROGRESS) for node in nodes]
        ids = set(grid.push_messages(asked))
        while ids:
            for reply in grid.pull_messages(ids):
                ids.discard(reply.metadata.reply_to_message_id)
            time.sleep(0.1)
    done("questions")
    ids = []
    for _ in range({NUM_MESSAGES}):
        ids += grid.push_messages([Message(RecordDict(), node, "query.small") for node in nodes])
    for number, (num_ids, num_looks) in enumerate({list(LOOKS.values())}):
        phase(number)
        for _ in range(num_looks):
            grid.pull_messages(ids[:num_ids])
        done(number)
    while True:
        time.sleep(1.0)
"""
CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


class Coordinator:
    """A SuperLink behind a gateway: what they use."""

    def __init__(self, federation: Federation) -> None:
        assert federation.gateway is not None, "nginx is not installed"
        superlink = federation.superlink
        self.parts = {"SuperLink": superlink.tree, "gateway": federation.gateway.tree, "ServerApp": superlink.launcher}

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


def answer(nodes: Sequence[tuple[Any, ...]]) -> int:
    """Answers all questions as a site's gate does; returns how many looks found none."""

    def answer_some(node: tuple[Any, ...]) -> int:
        link, left, in_vain = Calls(node[1], node[5], node[7], node[3]), NUM_QUESTIONS, 0
        while left:
            kept = next(link.received(1), None)
            if kept is None:
                in_vain += 1
                time.sleep(0.3)
                continue
            link.contents(kept.message, kept.tree)
            told = Message(wire.progress_reply(SiteProgress(state="training")), reply_to=kept.message)
            _send(told, 0.0, node[2], node[6])
            left -= 1
        return in_vain

    with ThreadPoolExecutor(len(nodes)) as pool:
        return sum(pool.map(answer_some, nodes))


def when_ready(folder: Path, phase: object) -> None:
    """Waits until the ServerApp has nothing to do but this phase."""
    _until(lambda: (folder / f"ready-{phase}").exists() or None)


def go(folder: Path, phase: object) -> None:
    """Begins a phase of the ServerApp, and waits for its end."""
    (folder / f"go-{phase}").touch()
    _until(lambda: (folder / f"done-{phase}").exists() or None)


def questions(folder: Path, nodes: Sequence[tuple[Any, ...]]) -> int:
    """Has all sites asked how far they are, again and again; returns how many looks of theirs found nothing."""
    (folder / "go-questions").touch()
    in_vain = answer(nodes)
    _until(lambda: (folder / "done-questions").exists() or None)
    return in_vain


def main() -> None:
    """Prints a row for each call, and for the memory of downloads."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="calls-") as name, starting(Path(name) / "federation") as start:
        folder = Path(name)
        federation = start({}, gateway=True)
        coordinator = Coordinator(federation)
        with Proxy(federation.port, NARROW) as proxy, nodes(federation, folder, proxy.port) as connected:
            print("| | SuperLink | gateway | ServerApp |\n|---|---:|---:|---:|")
            idle = coordinator.cost(lambda: looks(connected), NUM_CALLS)
            _print("a look of a node that finds nothing, ms", idle)
            control = federation.superlink.control
            app = write_app(folder / "app", "calls", CLIENT, SERVER, ("folder",))
            run_id = control.run(app, {"folder": name})
            parts = received_parts(connected, run_id)
            _print("a question how far a site is, and its answer, ms", question(coordinator, folder, connected, idle))
            for number, (what, (_, num_looks)) in enumerate(LOOKS.items()):
                when_ready(folder, number)
                _print(what, coordinator.cost(partial(go, folder, number), num_looks))
            _print(f"a download of {PART_BYTES >> 20} MiB under way, MB", held_downloads(coordinator, parts))
            control.stop(run_id)


def question(
    coordinator: Coordinator, folder: Path, connected: Sequence[tuple[Any, ...]], idle: dict[str, float]
) -> dict[str, float]:
    """Milliseconds a question, without the looks that found none."""
    when_ready(folder, "questions")
    in_vain: list[int] = []
    number = NUM_QUESTIONS * len(connected)
    used = coordinator.cost(lambda: in_vain.append(questions(folder, connected)), number)
    return {part: each - idle[part] * in_vain[0] / number for part, each in used.items()}


def _print(what: str, of: dict[str, float]) -> None:
    print(f"| {what} | {' | '.join(f'{each:.2f}' for each in of.values())} |", flush=True)


if __name__ == "__main__":
    main()
