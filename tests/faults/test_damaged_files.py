"""Files of a run that are cut short or broken: a clear message, the last good round kept, and going on.

In one process, where a run can be stopped at a line of its ledger. `pytest -m "" tests/faults/test_damaged_files.py`
runs all.
"""

import json
import re
import shutil
import time
from collections import Counter
from contextlib import closing

import pytest
from faults.runs import MODEL, assert_same_bits
from faults.standing import SITES, make_site
from flwr.app import Message

from client.app import app as client_app
from common import wire
from common.errors import InputError, WorkError
from common.steps import EvaluateStep
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server.experiment import run_experiment
from server.ledger import Ledger
from server.sites import Sites
from server.watch import Watch

NUM_ROUNDS = 3


class Killed(BaseException):
    """The coordinator's end."""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.1)


@pytest.fixture
def experiment(quick):
    """The quick one, and what its model is worth at the end."""
    made = quick("damaged", NUM_ROUNDS, keep_rounds="all")
    steps = (*made.steps, EvaluateStep(kind="evaluate", models=(MODEL,)))
    return made.model_copy(update={"steps": steps})


@pytest.fixture
def configs(tmp_path, tiny_cases):
    return {site: make_site(tmp_path / site, site, tiny_cases) for site in SITES}


@pytest.fixture
def ends_well(tmp_path, experiment, configs, unbroken_run):
    """A function that runs the experiment on to its end, checks the bits, and returns who was asked for which round."""

    def go_on():
        asked = Counter()
        run_until(tmp_path / "run", experiment, configs, asked=asked)
        assert_same_bits(
            tmp_path / "run" / "models" / f"{MODEL}.safetensors", unbroken_run(NUM_ROUNDS).model_path(MODEL)
        )
        return asked

    return go_on


def run_until(folder, experiment, configs, asked=None, failing=(), **line):
    """Runs the experiment, or goes on with it, to its end or to the first new line with these values.

    `asked` counts the training tasks by site and round; `failing` are sites and rounds that end in an error.
    """

    def on_record(record):
        if line and all(record.get(key) == value for key, value in line.items()):
            raise Killed

    def app(message, context):
        if message.metadata.message_type == "train":
            mine = context.node_config["site"], wire.read_train_task(message).round
            if asked is not None:
                asked[mine] += 1
            if mine in failing:
                others_are_in(folder)
                return Message(content=wire.error_reply(WorkError("told to fail")), reply_to=message)
        return client_app(message, context)

    with closing(InProcessGrid(app, configs)) as grid:
        ledger = Ledger(folder, experiment, on_record)
        watch = Watch(folder, ledger.append)
        run_experiment(experiment, ledger, Sites(grid, grid.node_ids, experiment.rounds, watch))


def others_are_in(folder):
    """Returns when the other sites' replies are on disk: a round that has become hopeless waits for none of them."""
    deadline = time.monotonic() + 60
    while len(list((folder / "spool" / MODEL).glob("*.json"))) < len(SITES) - 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cut(path):
    """Leaves the first half of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def everyone(*rounds):
    return Counter({(site, number): 1 for site in SITES for number in rounds})


@pytest.mark.parametrize("replies", ["spooled", "gone"])
def test_the_last_round_is_done_again_where_its_weights_are_cut_short(
    tmp_path, experiment, configs, ends_well, replies
):
    with pytest.raises(Killed):
        run_until(tmp_path / "run", experiment, configs, kind="round", round=2)
    cut(tmp_path / "run" / "rounds" / MODEL / "round-0002.safetensors")
    if replies == "gone":
        shutil.rmtree(tmp_path / "run" / "spool")
    assert ends_well() == (everyone(3) if replies == "spooled" else everyone(2, 3))
    notes = [each["text"] for each in Ledger(tmp_path / "run", experiment).find("note")]
    assert any("round 2 of federated is done again" in text and "cut short" in text for text in notes)


@pytest.mark.parametrize("name", ["B.bin", "B.json"])
def test_a_spooled_reply_that_is_cut_short_is_asked_for_again(tmp_path, experiment, configs, ends_well, name):
    with pytest.raises(WorkError, match="C \\(work-failed\\)"):
        run_until(tmp_path / "run", experiment, configs, failing=[("C", 2)])
    assert sorted(path.name for path in (tmp_path / "run" / "spool" / MODEL).glob("*.bin")) == ["A.bin", "B.bin"]
    cut(tmp_path / "run" / "spool" / MODEL / name)
    asked = ends_well()
    assert asked == everyone(3) + Counter({("B", 2): 1, ("C", 2): 1})


def test_a_finished_model_that_is_cut_short_is_made_again(tmp_path, experiment, configs, ends_well):
    with pytest.raises(Killed):
        run_until(tmp_path / "run", experiment, configs, kind="done", step=1)
    cut(tmp_path / "run" / "models" / f"{MODEL}.safetensors")
    assert ends_well() == Counter()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 8))
def test_a_broken_line_is_named_and_without_it_the_run_goes_on(tmp_path, experiment, configs, ends_well, number):
    with pytest.raises(Killed):
        run_until(tmp_path / "run", experiment, configs, kind="round", round=3)
    path = tmp_path / "run" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    path.write_bytes(b"".join([*lines[: number - 1], b"\0" * 40 + b"\n", *lines[number:]]))
    told = re.escape(f"{path}, line {number}: broken; remove the line and run the experiment again")
    with pytest.raises(InputError, match=told):
        ends_well()
    path.write_bytes(b"".join([*lines[: number - 1], *lines[number:]]))
    ends_well()


def test_half_a_last_line_is_dropped(tmp_path, experiment, configs, ends_well):
    with pytest.raises(Killed):
        run_until(tmp_path / "run", experiment, configs, kind="round", round=2)
    path = tmp_path / "run" / "ledger.jsonl"
    last = path.read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes()[: -len(last) // 2])
    assert ends_well() == everyone(3)  # the replies of round 2 are on disk
    assert [json.loads(line)["round"] for line in path.read_bytes().splitlines() if b'"round"' in line][:3] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standing.safetensors", "result.safetensors"])
def test_what_a_site_keeps_of_a_round_may_be_cut_short(tmp_path, experiment, configs, ends_well, name):
    with pytest.raises(Killed):
        run_until(tmp_path / "run", experiment, configs, kind="round", round=2)
    kept = configs["B"].parent / "work" / "rounds"
    (kept / name).write_bytes((kept / "result.safetensors").read_bytes())
    cut(kept / name)
    (tmp_path / "run" / "rounds" / MODEL / "round-0002.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "spool")
    assert ends_well() == everyone(2, 3)
