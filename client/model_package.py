"""A model file as it comes from a coordinator: weights and what they need to be used, checked before use."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from common.checkpoint import Weights, load_weights
from common.errors import CheckpointError
from common.model import load_model
from common.recipe import Recipe
from common.settings import Name, parse_yaml
from common.split import SplitConfig
from common.statistics import Normalisation
from common.tasks import NormalisationRecord
from common.text import clean_text


@dataclass(frozen=True)
class ModelPackage:
    """Weights and what they need to be used, from the file's own metadata."""

    path: Path
    name: str
    weights: Weights
    recipe: Recipe
    normalisation: Normalisation
    split: SplitConfig
    """Of its run: which cases of a site it was not trained on."""
    origin: str = ""
    """The run and round that it comes from, as `round 3 of demo`; empty where the file does not say."""

    def networks(self, device: torch.device) -> dict[str, nn.Module]:
        """Returns the networks by stage (CheckpointError: the file's weights are not those of its recipe)."""
        try:
            return load_model(self.recipe, self.weights, device)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def version(self) -> str:
        """Returns 12 hex digits of all that decides what the model finds: weights, recipe, normalisation."""
        digest = hashlib.sha256(self.recipe.model_dump_json().encode())
        digest.update(f"{self.normalisation.mean!r} {self.normalisation.sd!r}".encode())
        for name in sorted(self.weights):
            array = self.weights[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()[:12]


def read_model(path: Path) -> ModelPackage:
    """Returns the model at `path`.

    Raises:
        CheckpointError: not a model of this product: name, recipe or normalisation is missing from its metadata.
    """
    weights, metadata = load_weights(path)
    check_metadata(metadata, path)
    recipe = parse_yaml(metadata["recipe"], Recipe, f"{path}: recipe")
    statistics = parse_yaml(metadata["normalisation"], NormalisationRecord, f"{path}: normalisation")
    split = parse_yaml(metadata.get("split", "{}"), SplitConfig, f"{path}: split")
    normalisation = Normalisation(statistics.mean, statistics.sd)
    return ModelPackage(path, metadata["model"], weights, recipe, normalisation, split, _origin(metadata))


def check_metadata(metadata: dict[str, str], path: Path) -> None:
    """Raises CheckpointError unless these are a model's: what it needs is there, and its name is one."""
    missing = [key for key in ("recipe", "normalisation", "model") if key not in metadata]
    if missing:
        raise CheckpointError(f"{path}: has no {missing[0]!r} in its metadata; give a file of a run's models folder")
    try:
        TypeAdapter(Name).validate_python(metadata["model"])
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: calls its model {clean_text(metadata['model'])!r}; expected letters, digits, '_', '.' and '-'; "
            "give a file of a run's models folder"
        ) from error


def _origin(metadata: dict[str, str]) -> str:
    known = "experiment" in metadata and "round" in metadata
    return clean_text(f"round {metadata['round']} of {metadata['experiment']}") if known else ""
