"""A process that trains one stage on one device, for the ClientApp's process that started it (`client/stage_team.py`).

Through a pipe it gets weights and momentum. The first of a stage's processes tells each epoch's loss there and waits
for the word to go on, or to send weights and momentum first. What goes wrong is sent instead. The process waits then,
as it does when it is done: whoever started it ends it.
"""

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from client.momentum import momentum_of, put_momentum
from common.cache import CachedCase
from common.checkpoint import Array, Weights, as_array, load_into
from common.device import choose_device
from common.errors import FedgtvError
from common.networks import build_network
from common.parent import end_with_parent
from common.recipe import Recipe
from common.replicas import meet
from common.shares import Share
from common.statistics import Normalisation
from common.training import Span, anchor, make_optimiser, train_stage

AS_THEY_ARE = (FedgtvError, OSError, MemoryError, torch.OutOfMemoryError)
"""Errors that say by their kind what became of a case, a disk or the memory; of others the words are sent."""


@dataclass(frozen=True)
class StageJob:
    """All that a stage's processes need to know, but for weights and momentum."""

    stage: str
    cases: Sequence[CachedCase]
    recipe: Recipe
    span: Span
    """The epochs that are left."""
    normalisation: Normalisation
    num_threads: int


@dataclass(frozen=True)
class Place:
    """A process's own among those of its stage."""

    device: str
    share: Share
    meeting: Path
    """Where they meet (`common/replicas.py`)."""


def work(job: StageJob, place: Place, pipe: Connection) -> None:
    """Does the job at its place; the process's whole life."""
    end_with_parent(f"{job.stage} {place.device}")
    with suppress(EOFError, ConnectionError):  # the parent was killed
        try:
            _train(job, place, pipe)
        except Exception as error:
            pipe.send(_to_be_sent(error))
        while True:
            pipe.recv()


def _to_be_sent(error: Exception) -> Exception:
    told = error if isinstance(error, AS_THEY_ARE) else RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told


def _train(job: StageJob, place: Place, pipe: Connection) -> None:
    torch.set_num_threads(job.num_threads)
    device = choose_device(place.device)
    meet(place.share, place.meeting, device)
    config = job.recipe.stages[job.stage]
    network = build_network(config.network, config.patch_size)
    load_into(network, receive_arrays(pipe), prefix="")
    network.to(device)
    received = anchor(network, job.span)
    if standing := receive_arrays(pipe):
        load_into(network, standing, prefix="")
    optimiser = make_optimiser(network, job.recipe.training, job.span.lr0)
    put_momentum(optimiser, network, receive_arrays(pipe))

    def after(epoch: int, loss: float) -> None:
        if place.share.rank:
            return
        pipe.send((epoch, loss))
        if pipe.recv():
            send_arrays(pipe, network.state_dict())
            send_arrays(pipe, momentum_of(optimiser, network))

    train_stage(
        network, job.stage, job.cases, job.recipe, job.span, job.normalisation, optimiser, after, received, place.share
    )


def send_arrays(pipe: Connection, arrays: Mapping[str, Array | Tensor]) -> None:
    """Sends one array after another, so that no more than one is held twice."""
    pipe.send(len(arrays))
    for name, value in arrays.items():
        pipe.send((name, as_array(value)))


def receive_arrays(pipe: Connection) -> Weights:
    """Returns what `send_arrays` sent; raises the error that was sent in its place."""
    number: int | Exception = pipe.recv()
    if isinstance(number, Exception):
        raise number
    return dict(pipe.recv() for _ in range(number))
