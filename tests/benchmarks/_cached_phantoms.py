"""Phantoms as a site has them after the first round: preprocessed, on disk."""

import numpy as np

from common.cache import store_case
from common.dataset import CaseEntry
from common.phantom import make_phantom
from common.preprocess import prepare
from common.volume import Volume

PHANTOMS = {"cmdr_unet": (2, 1.0), "small_cmdr_unet": (6, 0.5), "demo": (10, 0.25)}
"""How many, and their scale, by recipe."""


def cached_cases(name, recipe, folder):
    """Returns a recipe's cases, made below `folder`."""
    number, scale = PHANTOMS[name]
    cases = []
    for seed in range(number):
        phantom = make_phantom("ABC"[seed % 3], seed, scale)
        label = Volume(phantom.truth.astype(np.uint8), phantom.image.geometry)
        entry = CaseEntry(f"case-{seed}", f"case-{seed}", ("image",), "label")
        cases.append(store_case(folder / f"{name}-{seed}", entry, prepare([phantom.image], label, recipe.preprocess)))
    return cases
