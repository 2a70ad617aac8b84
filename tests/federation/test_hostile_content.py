"""Hostile code and hostile weights in a running federation: from its coordinator, and from a site that lies.

The coordinator that attacks is a ServerApp of its own on the real SuperLink: it sends every hostile archive, under that
archive's own hash, and every hostile weights record with a task. The site that attacks has an enrolled key and makes a
SuperNode's calls by hand.
"""

import json
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supernode.fleet_http_connection import http_request_response
from hostile.bundles import HOSTILE as BUNDLES
from hostile.weights import HOSTILE as WEIGHTS

from client.approval import Approvals
from client.audit import AuditLog
from client.keys import make_key
from common import wire
from common.bundle import RUN_KEY, write_bundle
from common.enrolment import read_join_request
from common.experiment import Experiment, RoundConfig
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from common.tasks import NormalisationRecord, SiteStatistics, TrainResult, TrainTask
from server.launch import launch
from server.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(900)]
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.2)
SERVER = """
import hashlib, json, sqlite3, time
from contextlib import closing
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from flwr.serverapp import ServerApp
from common import wire
from common.bundle import RUN_KEY

app = ServerApp()

@app.main()
def main(grid, context):
    told = json.loads(str(context.run_config[RUN_KEY]))
    answers = {}

    def ask(name, content):
        ids = set(grid.push_messages([Message(content, node, "train") for node in told["node_ids"]]))
        answers[name] = []
        while ids:
            for reply in grid.pull_messages(list(ids)):
                ids.remove(reply.metadata.reply_to_message_id)
                answers[name].append(str(wire.read_error(reply)))
            time.sleep(0.2)
        Path(told["out"]).write_text(json.dumps(answers))

    def send_as_code(data):
        told_hash = hashlib.sha256(data).hexdigest()
        with closing(sqlite3.connect(told["database"], timeout=60)) as connection:
            connection.execute("INSERT OR REPLACE INTO fab VALUES (?, ?, '{}')", (told_hash, data))
            assert connection.execute("UPDATE run SET fab_hash = ?", (told_hash,)).rowcount
            connection.commit()

    for path in sorted(Path(told["bundles"]).iterdir()):
        send_as_code(path.read_bytes())
        ask(path.name, RecordDict())
    send_as_code(Path(told["own"]).read_bytes())
    for path in sorted(Path(told["weights"]).iterdir()):
        ask(path.name, recorddict_from_proto(Proto.FromString(path.read_bytes())))
"""


def attack(federation, folder, own, task):
    """Runs the attacking ServerApp; returns what the sites answered, by the file that was sent."""
    for name, made in (("bundles", BUNDLES), ("weights", WEIGHTS)):
        (folder / name).mkdir()
        for number, make in enumerate(made.values()):
            thing = make()
            if name == "weights":
                content = RecordDict({wire.CONFIG: wire.task_config(task), wire.ARRAYS: thing})
                thing = recorddict_to_proto(content).SerializeToString()
            (folder / name / f"{name}-{number:02d}").write_bytes(thing)
    (folder / "own").write_bytes(own)
    bundle = write_bundle(folder)
    (bundle / "server" / "app.py").write_text(SERVER)
    told = {name: str(folder / name) for name in ("bundles", "weights", "own", "out")}
    told |= {"database": str(federation.superlink.folder / "state.db"), "node_ids": list(federation.node_ids.values())}
    control = federation.superlink.control
    run_id = control.run(bundle, {RUN_KEY: json.dumps(told)})
    ended = control.wait(run_id, 800.0)
    assert ended.completed, (ended, control.log(run_id))
    return json.loads((folder / "out").read_text())


def audited(federation, site):
    """The lines of a site's audit log, which is whole."""
    audit = AuditLog(federation.nodes[site].config.parent / "state").read()
    assert audit.faults == ()
    return audit.records


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's, of a duplicate name that a hostile bundle holds
def test_nothing_that_a_hostile_coordinator_sends_is_run_or_read(two_sites, tmp_path, own_bundle, tiny_recipe):
    task = TrainTask(
        experiment="e", recipe=tiny_recipe, split=SPLIT, model="m", step=0, round=1, epochs_done=0, local_epochs=1,
        epochs_total=1, lr0=0.01, seed=1, normalisation=NormalisationRecord(mean=0.0, sd=1.0),
    )  # fmt: skip
    answers = attack(two_sites, tmp_path, own_bundle, task)
    assert len(BUNDLES) >= 50
    assert len(WEIGHTS) >= 20
    expected = {f"bundles-{number:02d}": ["hostile-code"] * 2 for number in range(len(BUNDLES))}
    expected |= {f"weights-{number:02d}": ["bad-task"] * 2 for number in range(len(WEIGHTS))}
    assert answers == expected
    for site, node in two_sites.nodes.items():
        lines = audited(two_sites, site)
        told = [(each["event"], each.get("decision", each.get("error"))) for each in lines]
        assert told.count(("code", "hostile-code")) == told.count(("outgoing", "hostile-code")) == len(BUNDLES)
        assert told.count(("decision", "bad-task")) == told.count(("outgoing", "bad-task")) == len(WEIGHTS)
        assert told.count(("task", None)) == len(BUNDLES) + len(WEIGHTS)
        assert not any(decision == "admitted" for _, decision in told)
        assert Approvals(node.config.parent / "state").waiting() == ()
        assert not list((node.folder / "flwr").rglob("app.py"))
        assert node.num_starts == 1


def spoilt(received):
    """The received weights as a reply that fits them, but for one thing."""
    name = next(iter(received))
    first = received[name]
    changed = {
        "a layer of NaN": {name: np.full_like(first, np.nan)},
        "a layer of infinity": {name: np.full_like(first, -np.inf)},
        "a layer of another shape": {name: first[..., None]},
        "a layer too many": {"../../etc/passwd\x1b[2J": first},
        "an empty layer": {name: first[:0]},
    }
    replies = {what: wire.pack_weights(received | change) for what, change in changed.items()}
    replies["a layer missing"] = wire.pack_weights({key: value for key, value in received.items() if key != name})
    replies["whole numbers"] = wire.pack_weights(received)
    replies["whole numbers"][wire.PACKED] = Array(replies["whole numbers"][wire.PACKED].numpy().astype(np.int32))
    return replies


LIARS = "CDEF"
LIES = [*WEIGHTS, *spoilt({"a": np.zeros(2, np.float32)})]
NUM_ROUNDS = -(-len(LIES) // len(LIARS))


def hostile_reply(message, number):
    """What the lying site of this number answers: counts as any site, and in each round its share of the lies."""
    if message.metadata.message_type == wire.STATISTICS:
        return wire.statistics_reply(SiteStatistics(train=5, validation=1, test=1, seconds=1.0), None)
    task = wire.read_train_task(message)
    received = wire.record_to_weights(message.content.array_records[wire.ARRAYS])
    records = [*(make() for make in WEIGHTS.values()), *spoilt(received).values()]
    told = TrainResult(model=task.model, round=task.round, num_examples=5, epochs=(), validation_dsc=None, seconds=1.0)
    content = wire.train_reply(received, received, told, task.transport)
    content[wire.ARRAYS] = records[((task.round - 1) * len(LIARS) + number) % len(records)]
    return content


@contextmanager
def lying_site(federation, number, folder):
    """A newly enrolled site that does a SuperNode's calls by hand, in a thread; yields the list of what it answered."""
    files = make_key(LIARS[number], folder / LIARS[number])
    federation.superlink.enrol(read_join_request(files.request))
    key = load_ssh_private_key(files.private.read_bytes(), None)
    authority = federation.superlink.certificates.authority.read_bytes()
    stop, answered = threading.Event(), []

    def answer(message, tree, send, pull_object, push_object, confirm):
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        contents = pull_objects(
            [each.object_id for each in iterate_object_tree(tree)], lambda name: pull_object(run_id, name)
        )
        confirm(run_id, message_id)
        reply = Message(hostile_reply(inflate_object_from_contents(message_id, contents), number), reply_to=message)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects, told = get_all_nested_objects(reply), get_object_tree(reply)
        missing, session = send(reply, told, 1.0)
        for name in missing:
            push_object(run_id, session, name, objects[name].deflate())
        answered.append(message.metadata.message_type)

    def work():
        with http_request_response(f"localhost:{federation.port}", False, authority, (key, key.public_key())) as calls:
            _, receive, send, _, _, pull_object, push_object, confirm = calls
            while not stop.wait(0.3):
                if (received := receive()) is not None:
                    answer(*received, send, pull_object, push_object, confirm)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join()


def rounds_of(federation, recipe, sites, name, rounds=1, quorum=0):
    """Runs an experiment and returns the records of its rounds."""
    plan = Experiment(reuse=False,
        name=name, sites=tuple(sites), recipe=recipe, split=SPLIT,
        rounds=RoundConfig(quorum=quorum, timeout_s=60.0),
        steps=(
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model="federated", rounds=rounds, local_epochs=1),
        ),
    )  # fmt: skip
    told = []
    folder = launch(federation.superlink.control, federation.superlink.folder, plan, name, told.append)
    assert told[-1]["kind"] == "end"
    return Ledger(folder, plan).find("round")


def test_no_weights_of_a_lying_site_enter_the_model(two_sites, tmp_path, tiny_recipe):
    """Every round names the lying sites and why, and goes on with the honest one."""
    with ExitStack() as stack:
        answered = [stack.enter_context(lying_site(two_sites, number, tmp_path)) for number in range(len(LIARS))]
        rounds = rounds_of(two_sites, tiny_recipe, "A" + LIARS, "lied-to", NUM_ROUNDS, quorum=1)
    assert answered == [[wire.STATISTICS, *[wire.TRAIN] * NUM_ROUNDS]] * len(LIARS)
    assert [sorted(record["dropped"]) for record in rounds] == [list(LIARS)] * NUM_ROUNDS
    reasons = [record["dropped"][site].split()[0] for record in rounds for site in LIARS]
    print(json.dumps(dict(zip(LIES, reasons, strict=False)), indent=1))
    assert set(reasons) == {"not-readable", "other-names", "other-shape", "other-dtype", "not-finite"}


def test_the_federation_works_as_before(two_sites, tiny_recipe):
    """After all of this: both sites, in their first process, train a round."""
    (record,) = rounds_of(two_sites, tiny_recipe, "AB", "after")
    assert record["dropped"] == {}
    assert [node.num_starts for node in two_sites.nodes.values()] == [1, 1]
