"""The border: what a message and a reply become, with the real policy and audit log; no word of the work's gets out."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from client.audit import AuditLog
from client.border import Border, guarded, num_bytes
from client.progress import FILE
from common import WIRE_VERSION, wire
from common.errors import AuditError, PolicyError, ReleaseError, TaskError
from common.recipe import Recipe
from common.split import SplitConfig
from common.statistics import HuHistogram
from common.tasks import (
    CompareResult,
    CompareTask,
    Drawing,
    EvaluateResult,
    EvaluateTask,
    MetricSpread,
    MetricSummary,
    ModelSummary,
    NormalisationRecord,
    Picture,
    PictureResult,
    PictureTask,
    ProgressTask,
    RowSpread,
    SiteProgress,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

SECRET = "Mustermann^Erika"
BASE: dict[str, Any] = {"experiment": "e", "recipe": Recipe(), "split": SplitConfig()}
MORE: dict[str, Any] = {"normalisation": NormalisationRecord(mean=0, sd=1)}
SENT = {"stage1.a": np.zeros((2, 3), np.float32), "stage1.b": np.zeros(2, np.float32)}
TRAINED = {name: value + 1 for name, value in SENT.items()}
PNG = cv2.imencode(".png", np.full((4, 4), 99, np.uint8))[1].tobytes()


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def site(folder: Path, **policy: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "site.yaml").write_text(json.dumps({"site": "A", "policy": policy}))
    return folder / "site.yaml"


def statistics_message(split: SplitConfig = SplitConfig()) -> Message:
    return Message(wire.task_record(StatisticsTask(**BASE | {"split": split})), 7, wire.STATISTICS)


def train_message(**fields: Any) -> Message:
    task = TrainTask(
        **BASE, **MORE, **({"model": "m", "step": 1, "round": 1, "epochs_done": 0, "local_epochs": 2, "epochs_total": 4,
                            "lr0": 0.1, "seed": 1} | fields)
    )  # fmt: skip
    content = wire.task_record(task)
    content[wire.ARRAYS] = wire.pack_weights(SENT)
    return Message(content, 7, wire.TRAIN)


def evaluate_message(pictures: int = 2) -> Message:
    task = EvaluateTask(**BASE, **MORE, models=("m",), part="test", pictures=pictures)
    return Message(wire.task_record(task, {"m": wire.pack_weights(SENT)}), 7, wire.EVALUATE)


def answered(message: Message, content: RecordDict) -> Message:
    return Message(content=content, reply_to=message)


def trained(**fields: Any) -> RecordDict:
    told: dict[str, Any] = {"model": "m", "round": 1, "num_examples": 5, "epochs": (), "validation_dsc": 0.5,
                            "num_validated": 4, "seconds": 1.0}  # fmt: skip
    return wire.train_reply(TRAINED, SENT, TrainResult(**told | fields), "fp32")


def through(config: Path, message: Message, content: RecordDict) -> Message:
    border = Border.open(config)
    border.receive(message, num_bytes(message.content))
    return border.leave(message, border.enter(message), answered(message, content))


def lines(config: Path) -> list[dict[str, Any]]:
    audit = AuditLog(config.parent / "state").read()
    assert audit.faults == ()
    return list(audit.records)


def test_a_good_round_passes_unchanged_and_leaves_three_lines(tmp_path: Path) -> None:
    config, message = site(tmp_path), train_message()
    reply = through(config, message, trained())
    weights = wire.record_to_weights(reply.content.array_records[wire.ARRAYS])
    assert all(np.array_equal(weights[name], TRAINED[name]) for name in SENT)
    assert wire.read_result(reply, TrainResult).validation_dsc == 0.5
    task, decision, outgoing = lines(config)
    assert [task["event"], decision["event"], outgoing["event"]] == ["task", "decision", "outgoing"]
    assert (decision["decision"], decision["round"], decision["epochs"]) == ("admitted", 1, 2)
    assert task["bytes"] > 8 * 4
    assert decision["sha256"] == message.content.object_id
    assert outgoing["sha256"] == reply.content.object_id
    assert (outgoing["cases"], outgoing["arrays"], outgoing["numbers"]) == (5, 2, 8)
    assert outgoing["norm"] == pytest.approx(np.sqrt(8), abs=1e-6)
    assert outgoing["bytes"] > 8 * 4


@pytest.mark.parametrize("event", ["task", "outgoing"])
def test_what_the_audit_log_cannot_hold_does_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    append = AuditLog.append

    def full(self: AuditLog, name: str, **fields: Any) -> Any:
        if name == event:
            raise AuditError("disk full")
        return append(self, name, **fields)

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(AuditError):
        through(site(tmp_path), train_message(), trained())


def test_a_tampered_log_ends_all_work(tmp_path: Path) -> None:
    config = site(tmp_path)
    through(config, train_message(), trained())
    path = tmp_path / "state" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"cases":5', b'"cases":6'))
    with pytest.raises(AuditError):
        Border.open(config).enter(train_message())


def test_rounds_and_epochs_are_counted_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = site(tmp_path, max_epochs=4)
    for number in (1, 2):
        Border.open(config).enter(train_message(round=number))
    with pytest.raises(PolicyError) as told:
        Border.open(config).enter(train_message(round=3))
    assert told.value.code == "policy-epochs"
    assert lines(config)[-1]["decision"] == "policy-epochs"
    monkeypatch.setattr(TaskIdentity, "_run_id", 2)
    Border.open(config).enter(train_message())  # another run


def test_a_round_that_is_asked_for_again_counts_once(tmp_path: Path) -> None:
    """A site that was killed and asked again would else be out of rounds before the run is."""
    config = site(tmp_path, max_rounds=2, max_epochs=4)
    for number in (1, 1, 2, 2, 1):
        Border.open(config).enter(train_message(round=number))
    with pytest.raises(PolicyError) as told:
        Border.open(config).enter(train_message(round=3))
    assert told.value.code == "policy-rounds"
    with pytest.raises(PolicyError):
        Border.open(config).enter(train_message(round=2, lr0=0.2))  # no more the same one


def test_how_far_it_is_takes_one_line_that_holds_all_of_it(tmp_path: Path) -> None:
    config = site(tmp_path, tasks=[])
    asked = Message(wire.task_record(ProgressTask(experiment="e")), 7, wire.PROGRESS)
    progress = SiteProgress(state="training", model="m", round=2, epoch=3, epochs=8, seconds=12.5, error="disk-full")
    reply = Border.open(config).tell(asked, progress)
    assert wire.read_result(reply, SiteProgress) == progress
    (line,) = lines(config)
    assert (line["event"], line["kind"]) == ("outgoing", wire.PROGRESS)
    assert progress.model_dump().items() <= line.items()


def test_in_one_process_a_site_tells_what_its_work_said_and_forgets_it(tmp_path: Path) -> None:
    config = site(tmp_path)
    context = Context(1, 7, {"config": str(config)}, RecordDict(), {})
    asked = Message(wire.task_record(ProgressTask(experiment="e")), 7, wire.PROGRESS)
    told: list[str] = []

    def app(message: Message, _: Context) -> Message:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / FILE).write_text(SiteProgress(state="training").model_dump_json())
        told.append(wire.read_result(guarded(app)(asked, context), SiteProgress).state)
        return answered(message, trained())

    guarded(app)(train_message(), context)
    told.append(wire.read_result(guarded(app)(asked, context), SiteProgress).state)
    assert told == ["training", "idle"]


@pytest.mark.parametrize(("code", "told"), [(8, "worker-lost"), (2, "crashed"), (1, "crashed")])
def test_a_process_that_died_is_told_from_one_that_failed(tmp_path: Path, code: int, told: str) -> None:
    config, message = site(tmp_path), train_message()
    border = Border.open(config)
    reply = border.leave(message, border.enter(message), Message(Error(code, SECRET), reply_to=message))
    assert wire.error_code(reply.content) == told


def test_a_changed_policy_holds_from_the_next_message_on(tmp_path: Path) -> None:
    Border.open(site(tmp_path)).enter(statistics_message())
    with pytest.raises(PolicyError):
        Border.open(site(tmp_path, tasks=["evaluate"])).enter(statistics_message())


@pytest.mark.parametrize("folder", ["work", "state"])
def test_a_full_folder_ends_work(tmp_path: Path, folder: str) -> None:
    config = site(tmp_path, max_disk_gb=0.0001)
    Border.open(config).enter(statistics_message())
    (tmp_path / folder / "cache").mkdir(parents=True)
    (tmp_path / folder / "cache" / "case").write_bytes(bytes(100_001))
    with pytest.raises(PolicyError) as told:
        Border.open(config).enter(statistics_message())
    assert told.value.code == "policy-disk"


@pytest.mark.parametrize("version", [WIRE_VERSION - 1, WIRE_VERSION + 1])
def test_a_task_of_another_release_is_refused_by_its_code(tmp_path: Path, version: int) -> None:
    message = statistics_message()
    record = message.content.config_records[wire.CONFIG]
    record[wire.TASK] = json.dumps(json.loads(str(record[wire.TASK])) | {"wire_version": version})
    with pytest.raises(ReleaseError):
        Border.open(site(tmp_path)).enter(message)
    assert lines(tmp_path / "site.yaml")[-1]["decision"] == "other-release"


def test_an_unknown_kind_of_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="unknown kind"):
        Border.open(site(tmp_path)).enter(Message(RecordDict(), 7, "query.shell"))


def test_statistics_over_few_cases_stay(tmp_path: Path) -> None:
    histogram = HuHistogram.empty().to_array()
    content = wire.statistics_reply(SiteStatistics(train=2, validation=0, test=0, seconds=1.0), histogram)
    reply = through(site(tmp_path), statistics_message(), content)
    assert wire.read_histogram(reply) is None
    assert lines(tmp_path / "site.yaml")[-1]["withheld"] == ["histogram of 2 cases"]
    reply = through(site(tmp_path, min_cases=2), statistics_message(), content)
    assert wire.read_histogram(reply) is not None


def test_a_fold_s_statistics_stay_where_few_test_and_the_digest_stays_with_the_histogram(tmp_path: Path) -> None:
    told = SiteStatistics(train=8, validation=0, test=2, digest="a" * 32, seconds=1.0)
    content = wire.statistics_reply(told, HuHistogram.empty().to_array())
    plain = through(site(tmp_path), statistics_message(), content)
    assert wire.read_result(plain, SiteStatistics) == told
    fold = through(site(tmp_path), statistics_message(SplitConfig(folds=5, fold=1)), content)
    assert wire.read_histogram(fold) is None
    assert wire.read_result(fold, SiteStatistics).digest is None
    assert lines(tmp_path / "site.yaml")[-1]["withheld"] == ["histogram of 2 cases"]


def evaluated(n: int = 4) -> RecordDict:
    told = {"m": ModelSummary(n=n, num_undefined=0, metrics={"dsc": MetricSummary(mean=0.5, sd=0.1)})}
    return wire.evaluate_reply(EvaluateResult(summaries=told, seconds=1.0), [Picture(PNG, 0.4), Picture(PNG, 0.6)])


def compared(n: int, name: str = "m") -> RecordDict:
    spread = MetricSpread(n=n, mean=0.5, sd=0.1, median=0.5, low=0.4, high=0.6, q1=0.4, q3=0.6)
    row = RowSpread(n=n, num_undefined=0, num_empty=0, fewest=n, metrics={"dsc": spread})
    return wire.compare_reply(CompareResult(rows={name: row}, pairs=(), seconds=1.0))


def test_a_comparison_leaves_by_the_number_of_cases_and_is_in_the_log(tmp_path: Path) -> None:
    """Whatever the work replies: twelve cases for quartiles, six for a median, three for a mean, by default."""
    task = CompareTask(**BASE, rows={"m": (("0" * 64, 0),)}, part="test", metrics=("dsc",))
    message = Message(wire.task_record(task), 7, wire.COMPARE)
    expected = {12: (0.5, 0.5, 0.4), 6: (0.5, 0.5, None), 3: (0.5, None, None), 2: (None, None, None)}
    for n, numbers in expected.items():
        told = wire.read_result(through(site(tmp_path), message, compared(n)), CompareResult).rows["m"].metrics["dsc"]
        assert (told.mean, told.median, told.q1) == numbers
    *_, decision, outgoing = lines(tmp_path / "site.yaml")
    assert (decision["models"], decision["part"], decision["decision"]) == (["m"], "test", "admitted")
    assert (outgoing["cases"], outgoing["models"], outgoing["withheld"]) == (2, 1, ["spread of 2 cases"])
    assert wire.read_error(through(site(tmp_path), message, compared(9, "Mustermann"))) == "policy-reply"
    with pytest.raises(PolicyError):
        Border.open(site(tmp_path, tasks=["train"])).enter(message)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, []),
        ({"share_pictures": True}, [None, None]),
        ({"share_case_metrics": True}, []),
        ({"share_pictures": True, "share_case_metrics": True}, [0.4, 0.6]),
        ({"share_pictures": True, "share_case_metrics": True, "min_cases": 5}, []),
    ],
)
def test_pictures_and_metrics_of_single_cases_leave_by_policy(
    tmp_path: Path, policy: dict[str, Any], expected: list[float | None]
) -> None:
    reply = through(site(tmp_path, **policy), evaluate_message(), evaluated())
    assert [picture.dsc for picture in wire.read_pictures(reply)] == expected
    assert len(wire.read_pictures(through(site(tmp_path, **policy), evaluate_message(1), evaluated()))) <= 1


def test_noise_is_counted_for_all_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = site(tmp_path, clip_norm=0.5, noise_multiplier=8.0)
    for run in (1, 2):
        monkeypatch.setattr(TaskIdentity, "_run_id", run)
        reply = through(config, train_message(), trained())
        weights = wire.record_to_weights(reply.content.array_records[wire.ARRAYS])
        assert not np.array_equal(weights["stage1.a"], TRAINED["stage1.a"])
    first, second = (line for line in lines(config) if line["event"] == "outgoing")
    assert 0 < first["epsilon"] < second["epsilon"]
    assert (first["noise"], first["delta"]) == (8.0, 1e-5)


def test_a_budget_that_shrank_while_a_task_was_worked_on_holds_for_its_reply(tmp_path: Path) -> None:
    config, message = site(tmp_path, clip_norm=0.5, noise_multiplier=20.0, max_epsilon=3.0), train_message()
    border = Border.open(config)
    border.receive(message, 1)
    entry = border.enter(message)
    site(tmp_path, clip_norm=0.5, noise_multiplier=0.5, max_epsilon=3.0)
    reply = Border.open(config).leave(message, entry, answered(message, trained()))
    assert wire.read_error(reply) == "policy-epsilon"
    assert lines(config)[-1]["error"] == "policy-epsilon"


def test_a_weight_too_large_for_half_precision_is_the_site_s_own_error(tmp_path: Path) -> None:
    message = train_message(transport="fp16")
    told = TrainResult(model="m", round=1, num_examples=5, epochs=(), validation_dsc=None, seconds=1.0)
    content = wire.train_reply(SENT, SENT, told, "fp16")
    content[wire.ARRAYS][wire.PACKED] = Array(np.full(8, 1e6, np.float32))
    assert wire.read_error(through(site(tmp_path), message, content)) == "policy-reply"


def test_a_message_s_id_that_is_none_is_not_on_record(tmp_path: Path) -> None:
    config, reply = site(tmp_path), answered(statistics_message(), RecordDict())
    reply.metadata.__dict__["_message_id"] = f"{SECRET} {'x' * 500}"
    Border.open(config).hold_back(reply)
    assert len(lines(config)[-1]["message"]) == 64
    assert "Mustermann" not in (tmp_path / "state" / "audit.jsonl").read_text()


def test_layers_that_stay_are_not_in_the_bytes(tmp_path: Path) -> None:
    config = site(tmp_path, local_layers=["stage1.b"])
    told = TrainResult(model="m", round=1, num_examples=5, epochs=(), validation_dsc=None, seconds=1.0)
    content = wire.train_reply({**TRAINED, "stage1.b": np.full(2, 1.2345678, np.float32)}, SENT, told, "fp32")
    reply = through(config, train_message(), content)
    assert wire.read_result(reply, TrainResult).local_layers == ("stage1.b",)
    assert np.float32(1.2345678).tobytes() in message_to_proto(answered(train_message(), content)).SerializeToString()
    assert np.float32(1.2345678).tobytes() not in message_to_proto(reply).SerializeToString()
    assert lines(config)[-1]["local"] == 1


def with_json(content: RecordDict, **more: Any) -> RecordDict:
    record = content.config_records[wire.RESULT]
    record[wire.JSON] = json.dumps(json.loads(str(record[wire.JSON])) | more)
    return content


def with_record(content: RecordDict, name: str, record: Any) -> RecordDict:
    content[name] = record
    return content


def renamed() -> RecordDict:
    content = trained()
    content[wire.ARRAYS] = wire.pack_weights({SECRET: SENT["stage1.a"], "stage1.b": SENT["stage1.b"]})
    return content


SMUGGLED: dict[str, tuple[Any, Any]] = {
    "unknown error code": (train_message, lambda: RecordDict({wire.RESULT: ConfigRecord({wire.ERROR: SECRET})})),
    "error beside a result": (
        train_message, lambda: with_record(trained(), "note", ConfigRecord({"text": f"case of {SECRET}"}))
    ),
    "another metric": (train_message, lambda: with_record(trained(), "more", MetricRecord({SECRET: 1.0}))),
    "another array": (
        train_message, lambda: with_record(trained(), "more", ArrayRecord({SECRET: Array(np.zeros(1, np.float32))}))
    ),
    "another field of the result": (train_message, lambda: with_json(trained(), note=SECRET)),
    "a layer's name": (train_message, lambda: with_json(trained(), local_layers=[SECRET])),
    "weights' names": (train_message, renamed),
    "a reason for withholding": (
        evaluate_message, lambda: with_json(evaluated(), summaries={}, withheld=f"{SECRET} has one scan")
    ),
    "a model's name": (
        evaluate_message,
        lambda: with_json(evaluated(), summaries={SECRET: {"n": 9, "num_undefined": 0, "metrics": {}}}),
    ),
    "a metric's name": (
        evaluate_message,
        lambda: with_json(
            evaluated(), summaries={"m": {"n": 9, "num_undefined": 0, "metrics": {SECRET: {"mean": 1, "sd": 1}}}}
        ),
    ),
    "a picture": (
        evaluate_message,
        lambda: wire.evaluate_reply(
            EvaluateResult(summaries={}, seconds=1.0), [Picture(SECRET.encode(), None)]
        ),
    ),
    "a record of its own": (evaluate_message, lambda: RecordDict({SECRET: ConfigRecord({SECRET: SECRET})})),
    "statistics' note": (
        statistics_message,
        lambda: with_json(
            wire.statistics_reply(SiteStatistics(train=9, validation=0, test=0, seconds=1.0), None), note=SECRET
        ),
    ),
    "histogram of text": (
        statistics_message,
        lambda: wire.statistics_reply(
            SiteStatistics(train=9, validation=0, test=0, seconds=1.0), np.frombuffer(SECRET.encode(), np.uint8)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
def test_nothing_that_the_work_words_gets_out(tmp_path: Path, name: str) -> None:
    ask, reply = SMUGGLED[name]
    message = ask()
    said = answered(message, reply())
    assert SECRET.split("^", maxsplit=1)[0].encode() in message_to_proto(said).SerializeToString() or "picture" in name
    border = Border.open(site(tmp_path, share_pictures=True))
    sent = message_to_proto(border.leave(message, border.enter(message), said)).SerializeToString()
    assert b"Mustermann" not in sent
    assert b"Erika" not in sent


def test_flower_s_own_error_text_becomes_a_code(tmp_path: Path) -> None:
    message = train_message()
    border = Border.open(site(tmp_path))
    reply = border.leave(message, border.enter(message), Message(Error(3, f"/data/{SECRET}"), reply_to=message))
    assert wire.read_error(reply) == "crashed"
    assert b"Muster" not in message_to_proto(reply).SerializeToString()


def test_in_one_process_the_border_stands_before_the_app(tmp_path: Path) -> None:
    def app(message: Message, _context: Context) -> Message:
        return answered(message, trained())

    context = Context(1, 7, {"config": str(site(tmp_path, max_rounds=1))}, RecordDict(), {})
    assert wire.read_error(guarded(app)(train_message(), context)) is None
    assert wire.read_error(guarded(app)(train_message(round=2), context)) == "policy-rounds"
    assert [line["event"] for line in lines(tmp_path / "site.yaml")] == [
        "task", "decision", "outgoing", "task", "decision", "outgoing"
    ]  # fmt: skip
    assert lines(tmp_path / "site.yaml")[-1]["error"] == "policy-rounds"


def picture_message() -> Message:
    task = PictureTask(**BASE, **MORE, models=("m",), what=("planes",), cases=("best", "worst"))
    return Message(wire.task_record(task, {"m": wire.pack_weights(SENT)}), 7, wire.DRAW)


def drawn(n: int = 4, rank: str = "best", model: str = "m", file: bytes = PNG + SECRET.encode()) -> RecordDict:
    drawings = [Drawing(what="planes", rank=rank, case=2, dsc={model: 0.4})]
    return wire.drawings_reply(PictureResult(n=n, drawings=tuple(drawings), seconds=1.0), [file])


@pytest.mark.parametrize(
    ("policy", "files", "dsc"),
    [
        ({}, 0, []),
        ({"share_case_metrics": True}, 0, []),
        ({"share_pictures": True}, 1, [{}]),
        ({"share_pictures": True, "share_case_metrics": True}, 1, [{"m": 0.4}]),
        ({"share_pictures": True, "min_cases": 5}, 0, []),
    ],
)
def test_drawn_cases_leave_by_policy_as_pixels_alone(
    tmp_path: Path, policy: dict[str, Any], files: int, dsc: list[dict[str, float]]
) -> None:
    reply = through(site(tmp_path, **policy), picture_message(), drawn())
    result, left = wire.read_drawings(reply)
    assert (len(left), [each.dsc for each in result.drawings]) == (files, dsc)
    assert (result.withheld is None) == bool(files)
    assert SECRET.encode() not in b"".join(left)
    assert lines(tmp_path / "site.yaml")[-1]["pictures"] == files


@pytest.mark.parametrize("odd", [{"rank": "median"}, {"model": "k"}, {"file": b"GIF89a"}])
def test_a_drawing_that_was_not_asked_for_or_is_none_is_held_back(tmp_path: Path, odd: dict[str, Any]) -> None:
    reply = through(site(tmp_path, share_pictures=True), picture_message(), drawn(**odd))
    assert wire.read_error(reply) == "policy-reply"
