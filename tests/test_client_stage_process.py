"""A stage's process by its pipe: what it is given, what it tells, how it waits. Here it is a thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client import stage_process
from client.momentum import momentum_of
from client.stage_process import Place, StageJob, receive_arrays, send_arrays, work
from common.checkpoint import Weights, as_array
from common.errors import ImageError, WorkError
from common.recipe import Recipe
from common.shares import Share
from common.statistics import Normalisation
from common.training import Span, make_optimiser

Start = Callable[..., Connection]
WEIGHTS = {"weight": np.full((1, 1), 2.0, np.float32), "bias": np.full(1, 3.0, np.float32)}


def train_stage(
    network: nn.Module, stage: str, cases: Any, recipe: Any, span: Span, normalisation: Any,
    optimiser: torch.optim.SGD, after: Callable[[int, float], None], received: Any, share: Share,
) -> None:  # fmt: skip
    """Adds 1 to every weight an epoch, and to the momentum; the loss is what FedProx holds on to."""
    for epoch in range(span.first_epoch, span.first_epoch + span.num_epochs):
        for parameter in network.parameters():
            parameter.data += 1
            state = optimiser.state[parameter]
            state["momentum_buffer"] = state.get("momentum_buffer", torch.zeros_like(parameter.data)) + 1
        after(epoch, sum(float(each.sum()) for each in received))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Returns start(**fields) -> the parent's end of the pipe."""
    monkeypatch.setattr(stage_process, "train_stage", train_stage)
    monkeypatch.setattr(stage_process, "end_with_parent", lambda _: None)
    monkeypatch.setattr(stage_process, "build_network", lambda *_: nn.Linear(1, 1))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(stage_process, "meet", lambda *_: None)
    started: list[tuple[threading.Thread, Connection]] = []

    def make(rank: int = 0, device: str = "cpu", mu: float = 0.0) -> Connection:
        span = Span(4, 2, 8, 0.1, seed=1, proximal_mu=mu)
        job = StageJob("stage1", [], Recipe(), span, Normalisation(0.0, 1.0), num_threads=1)
        ours, theirs = Pipe()
        thread = threading.Thread(target=work, args=(job, Place(device, Share(rank, 2), Path("meeting")), theirs))
        thread.start()
        started.append((thread, ours))
        return ours

    yield make
    for thread, pipe in started:
        pipe.close()  # as a parent that was killed
        thread.join(60)
        assert not thread.is_alive()


def begin(pipe: Connection, standing: Weights | None = None, momentum: Weights | None = None) -> None:
    for arrays in (WEIGHTS, standing or {}, momentum or {}):
        send_arrays(pipe, arrays)


def values(arrays: Weights) -> dict[str, float]:
    return {name: float(value.flat[0]) for name, value in arrays.items()}


def test_epochs_are_told_one_by_one_and_the_state_only_if_it_is_asked_for(start: Start) -> None:
    pipe = start()
    begin(pipe)
    assert pipe.recv() == (4, 0.0)
    pipe.send(False)
    assert pipe.recv() == (5, 0.0)
    pipe.send(True)
    assert values(receive_arrays(pipe)) == {"weight": 4.0, "bias": 5.0}
    assert values(receive_arrays(pipe)) == {"weight": 2.0, "bias": 2.0}
    assert not pipe.poll(0.1)  # waits to be ended


def test_a_stage_goes_on_from_where_it_stands_and_fedprox_holds_on_to_what_was_received(start: Start) -> None:
    pipe = start(mu=0.1)
    begin(pipe, {name: value + 10 for name, value in WEIGHTS.items()}, {"bias": np.ones(1, np.float32)})
    assert pipe.recv() == (4, 5.0)
    pipe.send(True)
    assert values(receive_arrays(pipe)) == {"weight": 13.0, "bias": 14.0}
    assert values(receive_arrays(pipe)) == {"weight": 1.0, "bias": 2.0}


def test_the_first_process_alone_tells_epochs(start: Start) -> None:
    pipe = start(rank=1)
    begin(pipe)
    assert not pipe.poll(0.1)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (WorkError("loss is nan"), WorkError, "loss is nan"),
        (ImageError("case A-1: went"), ImageError, "case A-1: went"),
        (FileNotFoundError(2, "No such file", "/cache/image.npy"), FileNotFoundError, "image.npy"),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "CUDA out of memory"),
        (KeyError("odd"), RuntimeError, "KeyError: 'odd'"),
    ],
)
def test_an_error_is_sent_with_where_it_was_raised(
    start: Start, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception], words: str
) -> None:
    @contextmanager
    def fails() -> Iterator[None]:
        raise raised
        yield

    monkeypatch.setattr(stage_process, "train_stage", lambda *_: fails().__enter__())
    pipe = start()
    begin(pipe)
    told = pipe.recv()
    assert type(told) is kind
    assert words in str(told)
    assert getattr(told, "filename", None) == getattr(raised, "filename", None)
    assert "in fails" in told.__notes__[0]
    pipe.send("whatever is still on its way")


def test_an_error_in_the_place_of_arrays_is_raised() -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        theirs.send(WorkError("no memory to copy them"))
        with pytest.raises(WorkError, match="no memory to copy them"):
            receive_arrays(ours)


def test_a_device_that_is_not_here_is_told(start: Start) -> None:
    assert "'cuda:77' is not here" in str(start(device="cuda:77").recv())


def test_arrays_arrive_as_they_are() -> None:
    network = nn.Conv3d(2, 3, 1).bfloat16().float()
    optimiser = make_optimiser(network, Recipe().training, 0.1)
    network(torch.ones(1, 2, 2, 2, 2)).sum().backward()
    optimiser.step()
    ours, theirs = Pipe()
    with ours, theirs:
        for sent in (network.state_dict(), momentum_of(optimiser, network), {}):
            send_arrays(ours, sent)
            found = receive_arrays(theirs)
            assert list(found) == list(sent)
            assert all(np.array_equal(as_array(value), found[name]) for name, value in sent.items())
