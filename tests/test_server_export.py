"""What TensorBoard and MLflow are told is the ledger's."""

import struct
import sys

import pytest
from invented_run import write_run
from tensorboardX.proto.event_pb2 import Event

from common.errors import InputError
from server import export
from server.export import parameters, scalars, to_mlflow, to_tensorboard
from server.run_record import read_run


@pytest.fixture
def record(tmp_path):
    return read_run(write_run(tmp_path / "run"))


def events_in(folder):
    """(tag, step, value) of every scalar in a folder's event files: length, its checksum, data, its checksum."""
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)
            data = data[16 + length :]


def test_points_are_the_ledgers(record):
    points = {(point.model, point.tag, point.step): point.value for point in scalars(record)}
    first, second = record.rounds_of(1)[:2]
    assert points["voxresnet", "loss/stage1/A", 1] == first.sites["A"].epochs[0].stage1
    assert points["voxresnet", "loss/stage1/A", 4] == second.sites["A"].epochs[1].stage1
    assert points["voxresnet", "validation_dsc/B", 2] == second.sites["B"].validation_dsc
    told = record.evaluations[0].matrix["tuned-C"]["A"].metrics["hd95_mm"].mean
    assert points["tuned-C", "test/hd95_mm/A", 10] == told


def test_tensorboard_reads_every_point_back(record, tmp_path):
    number = to_tensorboard(record, tmp_path / "board")
    back = {
        (folder.name, tag, step): value
        for folder in (tmp_path / "board").iterdir()
        for tag, step, value in events_in(folder)
    }
    told = {(point.model, point.tag, point.step): point.value for point in scalars(record)}
    assert len(back) == number == len(told)
    assert back == pytest.approx(told, rel=1e-6)  # single precision
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        to_tensorboard(record, tmp_path / "board")


def test_parameters_are_the_experiments_by_dotted_path(record):
    told = parameters(record)
    assert (told["seed"], told["steps.2.model"], told["recipe.training.lr0"]) == ("1", "voxresnet", "0.01")
    assert told["sites"] == "['A', 'B', 'C']"
    assert max(map(len, told.values())) <= export.MAX_VALUE


def test_without_mlflow_the_remedy_is_named(record, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'fedgtv\[mlflow\]'"):
        to_mlflow(record, "http://127.0.0.1:1")
