"""The weights that a site's policy keeps here, such as FedBN's normalisation layers (arXiv 2102.07623), between rounds.

WORK/layers/EXPERIMENT/seed-N/STEP-MODEL/<epochs done>.safetensors; the last two stay, so that a round which is asked
for again finds what it started from.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from common.checkpoint import Array, Weights, load_weights, save_weights
from common.tasks import TrainTask

FOLDER = "layers"


def save_layers(work: Path, task: TrainTask, weights: Mapping[str, Array]) -> None:
    """Writes the layers as they are after the task's epochs, and forgets all but those it began and ended with."""
    folder, after = _folder(work, task), task.epochs_done + task.local_epochs
    save_weights(folder / f"{after}.safetensors", weights, {})
    for path in folder.glob("*.safetensors"):
        if int(path.stem) not in (task.epochs_done, after):
            path.unlink()


def load_layers(work: Path, task: TrainTask, names: Collection[str]) -> Weights:
    """Returns those of `names` that are kept here from before the task's epochs.

    Empty in a step's first round, which starts from what the coordinator sends. A site that missed rounds goes on from
    its own last ones. Layers that the policy no longer keeps are left out.

    Raises:
        CheckpointError: the file is damaged.
    """
    done = [int(path.stem) for path in _folder(work, task).glob("*.safetensors")]
    before = [epochs for epochs in done if 0 < epochs <= task.epochs_done]
    if not before:
        return {}
    return _those(load_weights(_folder(work, task) / f"{max(before)}.safetensors")[0], names)


def last_layers(work: Path, experiment: str, model: str, names: Collection[str]) -> Weights:
    """Returns those of `names` that were kept last of a model that was trained here; empty for any other model."""
    paths = (work / FOLDER / experiment).glob(f"seed-*/*-{model}/*.safetensors")
    mine = [path for path in paths if path.parent.name.partition("-")[2] == model]
    newest = max(mine, key=lambda path: path.stat().st_mtime_ns, default=None)
    return {} if newest is None else _those(load_weights(newest)[0], names)


def _those(weights: Weights, names: Collection[str]) -> Weights:
    return {name: value for name, value in weights.items() if name in names}


def _folder(work: Path, task: TrainTask) -> Path:
    return work / FOLDER / task.experiment / f"seed-{task.seed}" / f"{task.step}-{task.model}"
