"""A model file as a hospital opens it: its version, its origin, and what it may call itself."""

import numpy as np
import pytest

from client.model_package import read_model
from common.checkpoint import load_weights, save_weights
from common.errors import CheckpointError


def changed(path, weights=None, **metadata):
    old, known = load_weights(path)
    save_weights(path, weights or old, {**known, **metadata})
    return read_model(path)


def test_the_version_is_that_of_what_decides_the_result(tmp_path, write_model):
    path = write_model(tmp_path / "m.safetensors", bias=1.0)
    version = read_model(path).version()
    assert (len(version), int(version, 16) >= 0) == (12, True)
    assert changed(path, card="{}", model="renamed").version() == version
    assert changed(path, normalisation='{"mean": 0, "sd": 101}').version() != version
    weights = {name: array + np.float32(1) for name, array in load_weights(path)[0].items()}
    assert changed(path, weights, normalisation='{"mean": 0, "sd": 100}').version() != version


def test_the_origin_is_told_where_it_is_known(tmp_path, write_model):
    path = write_model(tmp_path / "m.safetensors")
    assert read_model(path).origin == ""
    assert changed(path, experiment="demo", round="7").origin == "round 7 of demo"
    assert changed(path, experiment="de\x1b[31mmo", round="7").origin == "round 7 of de?[31mmo"


@pytest.mark.parametrize("name", ["", "a b", "\x1b[2J", "../up", "x" * 64])
def test_a_name_that_is_none_is_refused_without_control_characters(tmp_path, write_model, name):
    path = write_model(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="calls its model") as error:
        changed(path, model=name)
    assert str(error.value).isprintable()
