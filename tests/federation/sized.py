"""Recipes whose weights take so many bytes, on a grid so coarse that cases cost next to nothing."""

from common.model import build_model, model_weights
from common.recipe import NetworkConfig, PreprocessConfig, Recipe, RoiConfig, StageConfig

COARSE = PreprocessConfig(spacing_mm=(8.0, 8.0, 8.0), roi=RoiConfig(crop_at_neck=False))


def sized_recipe(megabytes: float) -> Recipe:
    """One stage whose weights take about so many MB, at least some kB; they grow with the square of the widths."""
    one = _stage(64)
    size = sum(array.nbytes for array in model_weights(build_model(one, 1)).values())
    return _stage(max(1, round(64 * (megabytes * 1e6 / size) ** 0.5)))


def _stage(width: int) -> Recipe:
    network = NetworkConfig(widths=(width, 2 * width), strides=((2, 2, 2),), aspp=None)
    stage = StageConfig(network=network, patch_size=(8, 8, 8))
    return Recipe(preprocess=COARSE, stage1=stage, stage2=None)
