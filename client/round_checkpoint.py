"""A round of training on disk: where it stands after an epoch, and its result until another round is asked for.

WORK/rounds/standing.safetensors and result.safetensors. Both carry a key, the hash of all that the round depends on,
and are of use to that round alone: a site that was killed goes on after the last epoch that stands here, and one whose
reply was lost sends it again. There is one round on disk at a time; the next one's task takes its place.
"""

import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError

from common.checkpoint import Array, Weights, load_metadata, load_weights, save_weights
from common.errors import CheckpointError
from common.private import private_folder
from common.release import release
from common.tasks import TrainResult, TrainTask

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("fedgtv.site")
FOLDER = "rounds"
STANDING, RESULT = "standing.safetensors", "result.safetensors"
KEY, TOLD, ORDER = "key", "told", "order"
MOMENTUM = "momentum."
"""Begins the name of an array that is the optimiser's; the others are weights."""


@dataclass(frozen=True)
class Standing:
    """Where a round stands after an epoch; without losses, before the first."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    """Of each stage that was begun, in order; the last one is under way."""
    validation_dsc: float | None = None
    """Of the received weights, where they were measured."""
    seconds: float = 0.0
    """That went into it, in all attempts."""
    weights: Weights = field(default_factory=dict)
    momentum: Weights = field(default_factory=dict)
    """Of the stage under way, by parameter."""

    @property
    def stage(self) -> str | None:
        """The one under way."""
        return next(reversed(self.losses), None)


_TOLD = TypeAdapter(tuple[dict[str, list[float]], float | None, float])


def round_key(task: TrainTask, weights: Mapping[str, Array], site: Sequence[str | int]) -> str:
    """Returns the hash of all that a round depends on: task, weights, this release, and what counts of the site.

    The order of the layers does not count: a coordinator that was started again sends them as its file has them.
    """
    digest = hashlib.sha256(json.dumps([task.model_dump_json(), release(), *site]).encode())
    for name, value in sorted(weights.items()):
        digest.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class RoundCheckpoint:
    """What is kept of one round; whatever is there of another is removed."""

    def __init__(self, work: Path, key: str, least_s: float) -> None:
        """`work` is the site's work folder; `least_s` are the least seconds between two epochs that are kept."""
        self._folder, self._key, self._least_s = work / FOLDER, key, least_s
        self._kept = time.monotonic()
        self._warned = False
        self._forget_others()

    def result(self) -> tuple[Weights, TrainResult] | None:
        """Returns what came of the round, if it was done here before."""
        if not (self._folder / RESULT).exists():
            return None
        weights, metadata = load_weights(self._folder / RESULT)
        order = json.loads(metadata[ORDER])
        return {name: weights[name] for name in order}, TrainResult.model_validate_json(metadata[TOLD])

    def standing(self) -> Standing:
        """Returns where the round stands, if it was begun here before."""
        if not (self._folder / STANDING).exists():
            return Standing()
        arrays, metadata = load_weights(self._folder / STANDING)
        momentum = {name.removeprefix(MOMENTUM): each for name, each in arrays.items() if name.startswith(MOMENTUM)}
        weights = {name: each for name, each in arrays.items() if not name.startswith(MOMENTUM)}
        return Standing(*_TOLD.validate_json(metadata[TOLD]), weights, momentum)

    @property
    def due(self) -> bool:
        """Whether the last epoch was kept long enough ago."""
        return time.monotonic() - self._kept >= self._least_s

    def keep(self, standing: Standing, momentum: "Mapping[str, Tensor]") -> None:
        """Writes where the round stands, with the momentum of the stage under way."""
        told = _TOLD.dump_json((standing.losses, standing.validation_dsc, standing.seconds)).decode()
        arrays: dict[str, Array | Tensor] = {**standing.weights}
        arrays |= {MOMENTUM + name: value for name, value in momentum.items()}
        self._write(STANDING, arrays, told)
        self._kept = time.monotonic()

    def finish(self, weights: Weights, result: TrainResult) -> None:
        """Writes what came of the round; where it stood is of no use any more."""
        self._write(RESULT, weights, result.model_dump_json())
        (self._folder / STANDING).unlink(missing_ok=True)

    def _write(self, name: str, arrays: "Mapping[str, Array | Tensor]", told: str) -> None:
        """Without room on the disk, training goes on without it: a kill then costs more."""
        try:
            private_folder(self._folder)
            save_weights(self._folder / name, arrays, {KEY: self._key, TOLD: told, ORDER: json.dumps(list(arrays))})
        except OSError as error:
            if not self._warned:
                log.warning("%s: where the round stands cannot be kept (%s); free space there", self._folder, error)
            self._warned = True

    def _forget_others(self) -> None:
        """Removes what is of another round, damaged, or was left half written by a process that was killed."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in (STANDING, RESULT) or not self._is_ours(path):
                path.unlink(missing_ok=True)

    def _is_ours(self, path: Path) -> bool:
        try:
            told = load_metadata(path)
            if told.get(KEY) != self._key:
                return False
            (TrainResult.model_validate_json if path.name == RESULT else _TOLD.validate_json)(told[TOLD])
        except (CheckpointError, KeyError, ValidationError) as error:
            log.warning("%s: is damaged, and the round begins anew (%s)", path, " ".join(str(error).split()))
            return False
        return True


def forget_rounds(folder: Path) -> None:
    """Removes what is kept of a round in `folder`; no link is followed.

    Raises:
        OSError: the disk is not writable, or `folder` is a link.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a link; expected a folder", str(folder))
    if folder.exists():
        shutil.rmtree(folder)
