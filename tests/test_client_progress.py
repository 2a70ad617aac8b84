"""How far a site is: what its process says, and what the node makes of whatever stands there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from client import progress
from client.progress import FILE, Progress, forget_progress, progress_of, read_progress
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import NormalisationRecord, SiteProgress, StatisticsTask, TrainTask

BASE: dict[str, Any] = {"experiment": "e", "recipe": Recipe(), "split": SplitConfig()}
TASK = TrainTask(
    **BASE, model="m", step=1, round=3, epochs_done=4, local_epochs=2, epochs_total=8, lr0=0.1, seed=1,
    normalisation=NormalisationRecord(mean=0, sd=1),
)  # fmt: skip
"""Two stages of two epochs."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def said(work: Path) -> tuple[Any, ...]:
    told = read_progress(work)
    assert told is not None
    return told.state, told.model, told.round, told.epoch, told.epochs, told.seconds


def test_states_are_told_at_once_and_epochs_once_a_second(tmp_path: Path, clock: list[float]) -> None:
    told = Progress(tmp_path, TASK)
    assert said(tmp_path) == ("preparing", "m", 3, 0, 4, 0.0)
    told.say("training")
    assert said(tmp_path) == ("training", "m", 3, 0, 4, 0.0)
    clock[0] += 0.5
    told.say("training", 1)
    assert said(tmp_path)[3] == 0
    clock[0] += 0.5
    told.say("training", 2)
    assert said(tmp_path)[3:] == (2, 4, 1.0)
    told.say("sending")
    assert said(tmp_path) == ("sending", "m", 3, 2, 4, 1.0)
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_a_task_that_trains_nothing_has_no_epochs(tmp_path: Path) -> None:
    Progress(tmp_path, StatisticsTask(**BASE))
    assert said(tmp_path)[:5] == ("preparing", None, None, 0, 0)


def test_nothing_is_said_where_nobody_asks_and_where_there_is_no_room(tmp_path: Path) -> None:
    Progress(None, TASK).say("training")
    (tmp_path / "file").touch()
    Progress(tmp_path / "file", TASK).say("training")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_node_takes_state_and_epoch_alone(tmp_path: Path) -> None:
    forged = SiteProgress(state="training", model="other", round=99, epoch=77, epochs=99, seconds=9e7, error="audit")
    (tmp_path / FILE).write_text(forged.model_dump_json())
    assert progress_of(tmp_path, TASK, 12.34) == SiteProgress(
        state="training", model="m", round=3, epoch=4, epochs=4, seconds=12.3
    )


WHOLE = SiteProgress(state="training").model_dump()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"{", b"[" * 4000, b" " * 5000 + json.dumps(WHOLE).encode(),
        json.dumps(WHOLE | {"state": "Mustermann"}).encode(), json.dumps(WHOLE | {"name": "x"}).encode(),
        json.dumps(WHOLE | {"epoch": 10**400}).encode(), json.dumps(WHOLE | {"seconds": float("nan")}).encode(),
    ],
)  # fmt: skip
def test_whatever_stands_there_is_told_as_a_task_that_waits(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    told = progress_of(tmp_path, TASK, 1.0)
    assert (told.state, told.epoch) == ("queued", 0) or told.epoch == 4


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "dangling"])
def test_what_is_no_file_is_not_read_and_nothing_hangs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").write_text(SiteProgress(state="training").model_dump_json())
    path = tmp_path / FILE
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    assert read_progress(tmp_path) is None
    forget_progress(tmp_path)
    assert (tmp_path / "elsewhere").exists()
    assert path.exists() == (kind == "folder")
