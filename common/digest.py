"""What a measured model is, in one hash: all that its masks depend on but the case and the program."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.recipe import Recipe
from common.settings import Frozen, fingerprint

MEASURING_VERSION = 1
"""Raised when the same weights give other masks or other metrics than before: all is then measured again."""
DIGEST = "^[0-9a-f]{64}$"


def model_digest(weights: Mapping[str, NDArray[Any]], recipe: Recipe, normalisation: Frozen) -> str:
    """Returns 64 hex digits that change with any weight, the recipe or the normalisation.

    Args:
        weights: as a site receives them, in fp32: what travels in fp16 is not what was sent.
        recipe: the model's.
        normalisation: mean and SD that its images are brought to.
    """
    told = [MEASURING_VERSION, fingerprint(recipe, normalisation), weights_digest(weights)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def weights_digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """Returns 64 hex digits that change with any weight; of no weights too."""
    whole = hashlib.sha256()
    for name, value in sorted(weights.items()):
        whole.update(json.dumps([name, list(np.shape(value))]).encode())
        whole.update(np.asarray(value, "<f4", order="C").tobytes())
    return whole.hexdigest()
