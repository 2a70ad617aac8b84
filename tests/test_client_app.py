"""The ClientApp: a task in, a result out, and no text of an exception in anything that leaves."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import context_to_proto, message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.progress import read_progress
from client.site import Site
from common import wire
from common.checkpoint import Weights
from common.errors import ImageError
from common.layers import Layers
from common.model import build_model, model_weights
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import (
    CompareTask,
    EvaluateResult,
    EvaluateTask,
    NormalisationRecord,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

torch.set_num_threads(1)
SECRET = "Mustermann^Erika"
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)
NORMALISATION = NormalisationRecord(mean=40.0, sd=50.0)


@pytest.fixture(autouse=True, scope="module")
def identity() -> Iterator[None]:
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


@pytest.fixture
def context(tmp_path: Path, tiny_cases: Path, tiny_cache: Path) -> Context:
    path = tmp_path / "site.yaml"
    site = {"site": "A", "cases": str(tiny_cases), "device": "cpu", "num_threads": 1}
    path.write_text(yaml.safe_dump(site | {"policy": {"share_pictures": True}}))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cache").symlink_to(tiny_cache)
    return Context(1, 100, {"site": "A", "config": str(path)}, RecordDict(), {})


def fields(recipe: Recipe, **more: Any) -> dict[str, Any]:
    return {"experiment": "demo", "recipe": recipe, "split": SPLIT, **more}


def train_content(recipe: Recipe, weights: Weights, transport: str = "fp32") -> RecordDict:
    task = TrainTask(
        **fields(recipe),
        model="federated",
        step=1,
        round=1,
        epochs_done=0,
        local_epochs=1,
        epochs_total=1,
        lr0=0.05,
        seed=1,
        normalisation=NORMALISATION,
        transport=transport,  # type: ignore[arg-type]
    )
    content = wire.task_record(task)
    content[wire.ARRAYS] = wire.pack_weights(weights, transport)
    return content


def send(content: RecordDict, kind: str, context: Context) -> tuple[Message, bytes]:
    """The reply as it arrives, and every byte of it."""
    request = message_from_proto(message_to_proto(Message(content, 100, kind)))
    reply = message_to_proto(app(request, context))
    return message_from_proto(reply), reply.SerializeToString()


def test_statistics(context: Context, tiny_recipe: Recipe) -> None:
    reply, _ = send(wire.task_record(StatisticsTask(**fields(tiny_recipe))), wire.STATISTICS, context)
    assert wire.read_error(reply) is None
    told, histogram = wire.read_result(reply, SiteStatistics), wire.read_histogram(reply)
    assert (told.train, told.validation, told.test) == (4, 3, 3)
    assert histogram is not None
    assert histogram.sum() > 0


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_training(context: Context, tiny_recipe: Recipe, transport: str) -> None:
    weights = model_weights(build_model(tiny_recipe, 1))
    reply, _ = send(train_content(tiny_recipe, weights, transport), wire.TRAIN, context)
    assert wire.read_error(reply) is None
    assert wire.read_result(reply, TrainResult).num_examples == 4
    record = reply.content.array_records[wire.ARRAYS]
    assert record[wire.PACKED].dtype == {"fp32": "float32", "fp16": "float16"}[transport]
    back = wire.trained_layers(wire.unpacked(record), Layers.of(weights), transport).arrays()
    assert {name: value.shape for name, value in back.items()} == {name: v.shape for name, v in weights.items()}
    assert all(np.isfinite(value).all() for value in back.values())


def test_evaluation(context: Context, tiny_recipe: Recipe) -> None:
    task = EvaluateTask(**fields(tiny_recipe), models=("m",), part="test", normalisation=NORMALISATION, pictures=1)
    arrays = wire.pack_weights(model_weights(build_model(tiny_recipe, 1)))
    reply, _ = send(wire.task_record(task, {"m": arrays}), wire.EVALUATE, context)
    assert wire.read_result(reply, EvaluateResult).summaries["m"].n == 3
    (picture,) = wire.read_pictures(reply)
    assert picture.dsc is not None


def test_how_far_the_work_is_stands_for_the_node_to_tell(context: Context, tiny_recipe: Recipe) -> None:
    work = Path(str(context.node_config["config"])).parent / "work"
    assert read_progress(work) is None
    send(train_content(tiny_recipe, model_weights(build_model(tiny_recipe, 1))), wire.TRAIN, context)
    told = read_progress(work)
    assert told is not None
    assert (told.state, told.model, told.round, told.epoch, told.epochs) == ("sending", "federated", 1, 2, 2)


def raises(error: BaseException) -> Callable[..., Any]:
    def work(*_: object) -> Any:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageError(f"{SECRET}: no CT"), "bad-image"),
        (ValueError(SECRET), "internal"),
        (KeyError(SECRET), "internal"),
        (OSError(2, "No such file", f"/data/{SECRET}/ct.nii.gz"), "internal"),
        (OSError(28, "No space left on device", f"/data/{SECRET}/ct.nii.gz"), "disk-full"),
        (MemoryError(SECRET), "out-of-memory"),
        (torch.OutOfMemoryError(SECRET), "out-of-memory"),
    ],
)
@pytest.mark.parametrize("kind", [wire.STATISTICS, wire.TRAIN, wire.EVALUATE, wire.COMPARE])
def test_a_patient_s_name_in_an_exception_stays_here(
    context: Context,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    error: Exception,
    code: str,
) -> None:
    monkeypatch.setattr(Site, "open_cases", raises(error))
    contents = {
        wire.STATISTICS: wire.task_record(StatisticsTask(**fields(tiny_recipe))),
        wire.TRAIN: train_content(tiny_recipe, model_weights(build_model(tiny_recipe, 1))),
        wire.EVALUATE: wire.task_record(
            EvaluateTask(**fields(tiny_recipe), models=("m",), part="test", normalisation=NORMALISATION)
        ),
        wire.COMPARE: wire.task_record(
            CompareTask(**fields(tiny_recipe), rows={"m": (("0" * 64, 0),)}, part="test", metrics=("dsc",))
        ),
    }
    with caplog.at_level(logging.ERROR, "fedgtv.site"):
        reply, sent = send(contents[kind], kind, context)
    assert not leaks(sent)
    assert not leaks(context_to_proto(context).state.SerializeToString())
    assert wire.read_error(reply) == code
    assert SECRET in caplog.text


def leaks(sent: bytes) -> bool:
    """Whether any part of the name is in there, in any of the usual encodings and cases."""
    return any(
        part.encode(code).lower() in sent.lower() for part in SECRET.split("^") for code in ("utf-8", "utf-16le")
    )


def test_the_search_would_find_a_leak() -> None:
    content = RecordDict({wire.RESULT: ConfigRecord({wire.ERROR: f"case of {SECRET}: no CT"})})
    assert leaks(message_to_proto(Message(content, 100, wire.TRAIN)).SerializeToString())


def test_a_damaged_case_s_path_stays_here(
    context: Context, tiny_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No planted exception: a cases folder that carries the name and is not there."""
    path = Path(str(context.node_config["config"]))
    path.write_text(yaml.safe_dump({"site": "A", "cases": str(tmp_path / SECRET), "device": "cpu"}))
    with caplog.at_level(logging.ERROR, "fedgtv.site"):
        reply, sent = send(wire.task_record(StatisticsTask(**fields(tiny_recipe))), wire.STATISTICS, context)
    assert not leaks(sent)
    assert wire.read_error(reply) == "bad-input"
    assert SECRET in caplog.text


def test_a_site_whose_own_file_is_gone_answers_by_code(context: Context, tiny_recipe: Recipe) -> None:
    Path(str(context.node_config["config"])).unlink()
    reply, sent = send(wire.task_record(StatisticsTask(**fields(tiny_recipe))), wire.STATISTICS, context)
    assert wire.read_error(reply) == "bad-config"
    assert b"site.yaml" not in sent


def test_a_node_that_was_started_without_a_configuration(tiny_recipe: Recipe) -> None:
    bare = Context(1, 100, {}, RecordDict(), {})
    reply, _ = send(wire.task_record(StatisticsTask(**fields(tiny_recipe))), wire.STATISTICS, bare)
    assert wire.read_error(reply) == "internal"


@pytest.mark.parametrize("kind", [wire.STATISTICS, wire.TRAIN, wire.EVALUATE, wire.COMPARE])
def test_a_message_without_a_task(context: Context, kind: str) -> None:
    assert wire.read_error(send(RecordDict(), kind, context)[0]) == "bad-task"


def test_weights_of_another_network_and_no_weights(context: Context, tiny_recipe: Recipe) -> None:
    weights = model_weights(build_model(tiny_recipe, 1))
    weights["stage1.other"] = np.zeros(1, np.float32)
    assert wire.read_error(send(train_content(tiny_recipe, weights), wire.TRAIN, context)[0]) == "bad-checkpoint"
    assert wire.read_error(send(train_content(tiny_recipe, {}), wire.TRAIN, context)[0]) == "bad-checkpoint"
