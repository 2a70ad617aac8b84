"""A round of training on disk: where its stages stand after an epoch, and its result until another round is asked for.

WORK/rounds/standing-STAGE.safetensors and result.safetensors. All carry a key, the hash of all that the round depends
on, and are of use to that round alone: a site that was killed goes on after the last epochs that stand here, and one
whose reply was lost sends it again. There is one round on disk at a time; the next one's task takes its place.
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

import numpy as np
from pydantic import TypeAdapter, ValidationError

from common.checkpoint import Array, Weights, load_metadata, load_weights, save_weights
from common.errors import CheckpointError
from common.private import private_folder
from common.release import release
from common.tasks import TrainResult, TrainTask

log = logging.getLogger("fedgtv.site")
FOLDER = "rounds"
STANDING, RESULT = "standing-{}.safetensors", "result.safetensors"
KEY, TOLD, ORDER = "key", "told", "order"
MOMENTUM = "momentum."
"""Begins the name of an array that is the optimiser's; the others are weights."""


@dataclass(frozen=True)
class Standing:
    """Where a stage of a round stands after an epoch; without losses, before the first."""

    losses: Sequence[float] = ()
    """Of the epochs that are done."""
    validation_dsc: float | None = None
    """Of the received weights, where they were measured."""
    seconds: float = 0.0
    """That went into the round, in all attempts."""
    weights: Weights = field(default_factory=dict)
    """The stage's, by parameter."""
    momentum: Weights = field(default_factory=dict)
    """By parameter."""


_TOLD = TypeAdapter(tuple[list[float], float | None, float])


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
        """`work` is the site's work folder; `least_s` lie at least between two epochs of a stage that are kept."""
        self._folder, self._key, self._least_s = work / FOLDER, key, least_s
        self._began = time.monotonic()
        self._kept: dict[str, float] = {}
        self._warned = False
        self._forget_others()

    def result(self) -> tuple[Weights, TrainResult] | None:
        """Returns what came of the round, if it was done here before."""
        if not (self._folder / RESULT).exists():
            return None
        weights, metadata = load_weights(self._folder / RESULT)
        order = json.loads(metadata[ORDER])
        return {name: weights[name] for name in order}, TrainResult.model_validate_json(metadata[TOLD])

    def standing(self, stage: str) -> Standing:
        """Returns where a stage stands, if it was begun here before."""
        path = self._folder / STANDING.format(stage)
        if not path.exists():
            return Standing()
        arrays, metadata = load_weights(path)
        momentum = {name.removeprefix(MOMENTUM): each for name, each in arrays.items() if name.startswith(MOMENTUM)}
        weights = {name: each for name, each in arrays.items() if not name.startswith(MOMENTUM)}
        return Standing(*_TOLD.validate_json(metadata[TOLD]), weights, momentum)

    def due(self, stage: str) -> bool:
        """Whether an epoch of the stage was kept long enough ago."""
        return time.monotonic() - self._kept.get(stage, self._began) >= self._least_s

    def keep(self, stage: str, standing: Standing) -> None:
        """Writes where a stage stands."""
        told = _TOLD.dump_json(([*standing.losses], standing.validation_dsc, standing.seconds)).decode()
        momentum = {MOMENTUM + name: value for name, value in standing.momentum.items()}
        self._write(STANDING.format(stage), standing.weights | momentum, told)
        self._kept[stage] = time.monotonic()

    def finish(self, weights: Weights, result: TrainResult) -> None:
        """Writes what came of the round; where it stood is of no use any more."""
        self._write(RESULT, weights, result.model_dump_json())
        for path in self._folder.glob(STANDING.format("*")):
            path.unlink()

    def _write(self, name: str, arrays: Weights, told: str) -> None:
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
            ours = path.name == RESULT or path.match(STANDING.format("*"))
            if not ours or not self._is_ours(path):
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
