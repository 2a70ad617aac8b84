"""Recipes: networks and patches that fit, and what is refused."""

import pytest
from configuration import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.recipe import AugmentationConfig, NetworkConfig, Recipe, StageConfig


@pytest.mark.parametrize(("axis", "size"), [("z", (60, 128, 128)), ("y", (64, 100, 128)), ("x", (64, 128, 127))])
def test_a_patch_that_the_strides_do_not_divide(axis: str, size: tuple[int, int, int]) -> None:
    """Defaults: five halvings in y and x, four in z."""
    index = "zyx".index(axis)
    factor = (16, 32, 32)[index]
    refused(
        {"stage1": {"patch_size": size}},
        Recipe,
        f"stage1: patch_size: {size[index]} along {axis}",
        f"downsampling {factor}; use a multiple of {factor}",
    )


@settings(deadline=None)
@given(st.tuples(*[st.sampled_from([1, 2, 3])] * 3), st.tuples(*[st.integers(1, 40)] * 3))
def test_a_patch_divides_or_is_refused(stride: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    network = NetworkConfig(widths=(2, 2, 2), strides=(stride, stride))
    if all(n % s**2 == 0 for n, s in zip(size, stride, strict=True)):
        assert StageConfig(network=network, patch_size=size).patch_size == size
    else:
        with pytest.raises(ValidationError, match="not a multiple"):
            StageConfig(network=network, patch_size=size)


def test_widths_and_strides_agree() -> None:
    refused({"widths": [8, 16], "strides": []}, NetworkConfig, "strides: 0 given for 2 widths", "one fewer than widths")


def test_stages_by_prefix() -> None:
    assert list(Recipe().stages) == ["stage1", "stage2"]
    assert list(Recipe(stage2=None).stages) == ["stage1"]


def test_a_recipe_that_cannot_run() -> None:
    refused({"widths": [8, 16], "strides": [[0, 1, 1]]}, NetworkConfig, "strides.0.0", "greater than 0", "given: 0")
    refused({"first_kernel": [2, 3, 3]}, NetworkConfig, "first_kernel: (2, 3, 3) has an even size")
    refused({"patch_size": [64, 128, -128]}, StageConfig, "patch_size.2", "greater than 0", "given: -128")
    for scales in ([1.3, 0.7], [0, 0]):
        refused({"scale_range": scales}, AugmentationConfig, "scale_range", "two positive factors, the smaller first")
