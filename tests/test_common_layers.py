"""A model's layers read part by part are the layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.layers import PART, Layers

WEIGHTS = {
    "stage1.w": np.arange(PART + 5, dtype=np.float32).reshape(-1, 1),
    "stage1.none": np.empty((0, 3), np.float32),
    "stage1.scale": np.array(2.0, np.float32),
}


def test_the_parts_of_a_layer_are_all_of_it_once():
    layers = Layers.of(WEIGHTS)
    assert [list(layers.parts(name)) for name in layers.shapes] == [
        [slice(0, PART), slice(PART, PART + 5)], [], [slice(0, 1)]
    ]  # fmt: skip
    for name, value in WEIGHTS.items():
        joined = [number for part in layers.parts(name) for number in layers.part(name, part)]
        assert joined == value.reshape(-1).tolist()
        assert layers.size(name) == value.size


def test_arrays_have_their_shapes_and_are_not_copied():
    arrays = Layers.of(WEIGHTS).arrays()
    assert list(arrays) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert np.shares_memory(arrays[name], value) or not value.size


def test_layers_come_in_the_order_that_is_asked_for_and_others_are_left_out():
    layers = Layers.of(WEIGHTS).ordered(["stage1.scale", "stage1.w"])
    assert list(layers.shapes) == ["stage1.scale", "stage1.w"]
    assert list(layers.arrays()) == ["stage1.scale", "stage1.w"]


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, PART + 4))
def test_the_first_layer_that_is_not_finite_is_named(bad: float, place: int):
    spoilt = WEIGHTS["stage1.w"].copy()
    spoilt[place] = bad
    assert Layers.of(WEIGHTS).not_finite() is None
    assert Layers.of(WEIGHTS | {"stage1.w": spoilt}).not_finite() == "stage1.w"
    assert Layers.of({"stage1.a": WEIGHTS["stage1.scale"], "stage1.b": spoilt, "stage1.c": spoilt}).not_finite() == (
        "stage1.b"
    )


def test_layers_of_several_dtypes_are_read_in_one_that_holds_them_all():
    layers = Layers.of({"a": np.float16([0.5]), "b": np.float32([0.1])})
    assert layers.dtype == np.float32
    assert {name: layers.array(name).dtype for name in "ab"} == {"a": np.float32, "b": np.float32}
    assert layers.array("b")[0] == np.float32(0.1)


def test_no_layers_are_a_model_too():
    assert Layers.of({}).arrays() == {}


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        Layers.of(WEIGHTS).array("stage2.w")
