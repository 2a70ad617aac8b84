"""The ledger: every line whole and on disk, a run goes on where it stopped, another experiment keeps out."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoint import load_weights
from common.errors import CheckpointError, ConfigError, DiskFullError, InputError, WorkError
from common.experiment import Experiment
from common.recipe import Recipe, TrainingConfig
from server import ledger as ledger_module
from server.ledger import Ledger, check_folder, end_of_run

EXPERIMENT = Experiment(
    name="tiny",
    sites=("A", "B"),
    recipe=Recipe(training=TrainingConfig(lr0=1e-5, foreground_fraction=1 / 3)),
    steps=(
        {"kind": "statistics"},
        {"kind": "train", "model": "m", "strategy": "fedprox", "strategy_options": {"proximal_mu": 1e-7}},
    ),
    notes=("Umlauts: ä, apostrophe's, and 'quotes'",),
)
OTHER = EXPERIMENT.model_copy(update={"seed": 2})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "tiny"


def lines(folder):
    return (folder / "ledger.jsonl").read_bytes()


def test_a_ledger_opened_again_holds_what_was_written(folder):
    first = Ledger(folder, EXPERIMENT)
    assert first.records == []
    first.append({"kind": "step", "step": 0})
    first.append({"kind": "round", "step": 1, "model": "m", "round": 1, "sites": {"A": None}})
    again = Ledger(folder, EXPERIMENT)
    assert again.records == first.records
    assert [json.loads(line) for line in lines(folder).splitlines()] == first.records
    assert all(record["time"] for record in again.records)


def test_lines_are_found_by_kind_and_fields(folder):
    ledger = Ledger(folder, EXPERIMENT)
    for number in (1, 2, 2):
        ledger.append({"kind": "round", "model": "m", "round": number})
    ledger.append({"kind": "done", "step": 0})
    assert len(ledger.find("round")) == 3
    assert len(ledger.find("round", model="m", round=2)) == 2
    assert ledger.find("round", model="other") == []
    assert ledger.find("done", step=1) == []


def test_every_line_is_on_disk_before_anyone_hears_of_it(folder, monkeypatch):
    events = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("on disk"), fsync(handle)))

    def hear(record):
        events.append(json.loads(lines(folder).splitlines()[-1]) == record)

    ledger = Ledger(folder, EXPERIMENT, hear)
    events.clear()
    ledger.append({"kind": "end"})
    assert events == ["on disk", True]


@pytest.mark.parametrize("torn", [b"{", b'{"kind": "round", "mod', b'{"kind": "end"}'])
def test_a_line_that_a_crash_cut_short_is_dropped(folder, torn):
    ledger = Ledger(folder, EXPERIMENT)
    ledger.append({"kind": "step", "step": 0})
    whole = lines(folder)
    (folder / "ledger.jsonl").write_bytes(whole + torn)
    again = Ledger(folder, EXPERIMENT)
    assert again.records == ledger.records
    assert lines(folder) == whole
    again.append({"kind": "end"})
    assert [record["kind"] for record in Ledger(folder, EXPERIMENT).records] == ["step", "end"]


def test_a_ledger_of_one_torn_line_is_empty(folder):
    Ledger(folder, EXPERIMENT)
    (folder / "ledger.jsonl").write_bytes(b'{"kind"')
    assert Ledger(folder, EXPERIMENT).records == []


@pytest.mark.parametrize("broken", [b"\0\0\0", b"[1]", b"{]"])
def test_a_broken_whole_line_is_named(folder, broken):
    Ledger(folder, EXPERIMENT).append({"kind": "step"})
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(broken + b"\n")
    with pytest.raises(InputError, match=r"ledger\.jsonl, line 2: broken"):
        Ledger(folder, EXPERIMENT)


def test_nan_never_reaches_the_ledger(folder):
    ledger = Ledger(folder, EXPERIMENT)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append({"kind": "round", "loss": float("nan")})
    assert Ledger(folder, EXPERIMENT).records == []


def test_the_same_experiment_is_known_again(folder):
    Ledger(folder, EXPERIMENT)
    check_folder(folder, EXPERIMENT)
    Ledger(folder, EXPERIMENT)


def test_a_run_that_got_nothing_done_makes_room(folder):
    refused = Ledger(folder, EXPERIMENT)
    refused.append({"kind": "step"})
    refused.append({"kind": "failed", "code": "site", "why": "site C did not connect"})
    assert end_of_run(folder, OTHER) is None
    assert Ledger(folder, OTHER).records == []
    with pytest.raises(WorkError, match="under way"), Ledger(folder, OTHER).hold():
        Ledger(folder, EXPERIMENT)
    Ledger(folder, OTHER).append({"kind": "round"})
    with pytest.raises(ConfigError, match="another experiment"):
        Ledger(folder, EXPERIMENT)


def test_another_experiment_is_refused_and_nothing_changes(folder):
    Ledger(folder, EXPERIMENT).append({"kind": "statistics"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for refuse in (Ledger, check_folder):
        with pytest.raises(ConfigError, match="holds a run of another experiment"):
            refuse(folder, OTHER)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_or_missing_folder_fits_any_experiment(folder):
    check_folder(folder, EXPERIMENT)
    folder.mkdir(parents=True)
    check_folder(folder, OTHER)


def test_weights_come_back_by_model_and_round(folder):
    ledger = Ledger(folder, EXPERIMENT)
    for number in (1, 2):
        ledger.save_round("m", number, {"stage1.w": np.full(3, number, np.float32)}, {"round": str(number)})
    ledger.save_model("m", ledger.load_round("m", 2), {"round": "2"})
    assert ledger.load_round("m", 1)["stage1.w"].tolist() == [1, 1, 1]
    assert ledger.load_model("m")["stage1.w"].tolist() == [2, 2, 2]
    assert load_weights(ledger.model_path("m"))[1]["round"] == "2"
    assert ledger.round_path("m", 1).relative_to(folder).as_posix() == "rounds/m/round-0001.safetensors"
    with pytest.raises(CheckpointError, match="other"):
        ledger.load_model("other")


def test_a_picture_lies_below_the_run(folder):
    ledger = Ledger(folder, EXPERIMENT)
    assert ledger.save_picture("A-1", b"one") == "pictures/A-1.png"
    ledger.save_picture("A-1", b"two")
    assert [path.name for path in (folder / "pictures").iterdir()] == ["A-1.png"]
    assert (folder / "pictures" / "A-1.png").read_bytes() == b"two"


def test_a_write_that_fails_leaves_the_old_file(folder, monkeypatch):
    ledger = Ledger(folder, EXPERIMENT)
    ledger.save_picture("A-1", b"old")

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        ledger.save_picture("A-1", b"new")
    assert (folder / "pictures" / "A-1.png").read_bytes() == b"old"


def test_a_run_has_one_writer_at_a_time(tmp_path):
    first, second = Ledger(tmp_path / "run", EXPERIMENT), Ledger(tmp_path / "run", EXPERIMENT)
    with first.hold(), pytest.raises(WorkError, match="run 'run' is under way"), second.hold():
        pytest.fail("two writers")
    with second.hold():
        assert (tmp_path / "run" / "lock").exists()


def test_the_end_of_a_run_is_its_last_end_line_and_looking_changes_nothing(folder):
    assert end_of_run(folder, EXPERIMENT) is None
    assert not folder.exists()
    ledger = Ledger(folder, EXPERIMENT)
    assert end_of_run(folder, EXPERIMENT) is None
    ledger.append({"kind": "done", "step": 1})
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind": "end"}')  # cut short before its newline
    torn = lines(folder)
    assert end_of_run(folder, EXPERIMENT) is None
    assert lines(folder) == torn
    again = Ledger(folder, EXPERIMENT)
    again.append({"kind": "end"})
    assert end_of_run(folder, EXPERIMENT) == again.records[-1]
    with pytest.raises(ConfigError, match="another experiment"):
        end_of_run(folder, OTHER)


MODEL = {"stage1.w": np.zeros(1000, np.float32)}


def test_a_round_needs_room_for_its_replies_weights_and_state(folder, monkeypatch):
    """Two models of 4 kB: sent out, three replies, here and on their way, round, state and model, and what is spare."""
    ledger = Ledger(folder, EXPERIMENT)
    needed = 2 * 4000 * (2 * 3 + 5) + ledger_module.SPARE_BYTES
    usage = {"free": needed}
    monkeypatch.setattr(ledger_module.shutil, "disk_usage", lambda _: SimpleNamespace(**usage))
    ledger.check_space([MODEL, MODEL], 3)
    usage["free"] -= 1
    with pytest.raises(
        DiskFullError, match=r"0\.07 GB free on the disk; expected 0\.07 GB for a round of 3 sites; make"
    ):
        ledger.check_space([MODEL, MODEL], 3)
    assert (folder / "reserve").stat().st_size == ledger_module.RESERVE_BYTES
    (folder / "spool" / "m").mkdir(parents=True)
    (folder / "spool" / "m" / "A.bin").write_bytes(b"1")  # what is here of the round needs no more room
    ledger.check_space([MODEL, MODEL], 3)


class FullDisk:
    """A disk with room for so many bytes; what is removed of the reserve is free again."""

    def __init__(self, monkeypatch, folder, room):
        self.folder, self.room, self.os_write = folder, room, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle, data):
        free = self.room + (0 if (self.folder / "reserve").exists() else ledger_module.RESERVE_BYTES)
        written = self.os_write(handle, bytes(data[: max(0, free)]))
        self.room -= written
        if not written:
            raise OSError(28, "No space left on device")
        return written


def test_the_last_line_takes_the_reserve_of_a_full_disk(folder, monkeypatch):
    ledger = Ledger(folder, EXPERIMENT)
    ledger.append({"kind": "round", "round": 1})
    ledger.check_space([MODEL], 1)
    FullDisk(monkeypatch, folder, 20)  # less than a line
    ledger.append({"kind": "failed", "code": "disk-full"})
    assert not (folder / "reserve").exists()
    assert [record["kind"] for record in Ledger(folder, EXPERIMENT).records] == ["round", "failed"]


def test_a_line_that_finds_no_room_at_all_leaves_the_ledger_as_it_was(folder, monkeypatch):
    ledger = Ledger(folder, EXPERIMENT)
    ledger.append({"kind": "round", "round": 1})
    before = lines(folder)
    FullDisk(monkeypatch, folder, 20 - ledger_module.RESERVE_BYTES)
    with pytest.raises(OSError, match="No space"):
        ledger.append({"kind": "round", "round": 2})
    assert lines(folder) == before
    assert Ledger(folder, EXPERIMENT).records == ledger.records


def test_a_line_that_does_not_reach_the_disk_is_taken_back(folder, monkeypatch):
    ledger = Ledger(folder, EXPERIMENT)
    ledger.append({"kind": "round", "round": 1})
    before = lines(folder)

    def fails(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        ledger.append({"kind": "round", "round": 2})
    assert lines(folder) == before


def test_only_the_kept_rounds_stay(folder):
    ledger = Ledger(folder, EXPERIMENT)
    for number in (1, 2, 3, 10):
        ledger.save_round("m", number, MODEL, {}, {"momentum.0": np.ones(2, np.float32)})
    ledger.save_round("other", 1, MODEL, {})
    ledger.prune("m", {2, 10, 0})
    assert sorted(path.name for path in (folder / "rounds" / "m").iterdir()) == [
        f"round-{number}{ending}" for number in ("0002", "0010") for ending in (".safetensors", ".state.safetensors")
    ]
    assert ledger.load_state("m", 2)["momentum.0"].tolist() == [1, 1]
    assert ledger.round_path("other", 1).exists()
    with pytest.raises(CheckpointError, match=r"round-0001\.state\.safetensors"):
        ledger.load_state("other", 1)
