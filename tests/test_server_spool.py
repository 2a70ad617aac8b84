"""Replies on disk: what was put is found bit for bit, and nothing else is taken for an answer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import result

from common.layers import Layers
from server.spool import Spool, weights_key

ARRAYS = {
    "stage1.a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "stage1.none": np.zeros((0, 4), np.float32),
    "stage1.b": np.array(-0.0, np.float32),
}


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool" / "m", "key")


def found(spool, site="A"):
    """The site's arrays, flat, or None."""
    update = spool.find(site)
    if update is None:
        return None
    return {name: update.part(name, slice(0, place.stop - place.start)) for name, place in update.places.items()}


def test_what_is_put_is_found_bit_for_bit(spool):
    spool.put("A", Layers.of(ARRAYS), result(7))
    update = spool.find("A")
    assert (update.site, update.cases, update.result) == ("A", 7, result(7))
    assert list(update.places) == list(ARRAYS)
    for name, values in found(spool).items():
        assert values.dtype == np.float32
        assert values.tobytes() == ARRAYS[name].tobytes()
    assert update.part("stage1.a", slice(2, 4)).tolist() == ARRAYS["stage1.a"].reshape(-1)[2:4].tolist()


def test_a_layer_that_lies_otherwise_in_memory_is_written_in_its_own_order(spool):
    turned = np.asfortranarray(ARRAYS["stage1.a"])
    spool.put("A", Layers.of({"stage1.a": turned}), result())
    assert found(spool)["stage1.a"].tolist() == ARRAYS["stage1.a"].reshape(-1).tolist()


def test_another_spool_of_the_same_folder_finds_it_too(spool, tmp_path):
    """As a coordinator does that was killed and started again."""
    spool.put("A", Layers.of(ARRAYS), result())
    assert found(Spool(tmp_path / "spool" / "m", "key")).keys() == ARRAYS.keys()


def test_a_reply_to_another_task_is_none(spool, tmp_path):
    spool.put("A", Layers.of(ARRAYS), result())
    assert Spool(tmp_path / "spool" / "m", "other").find("A") is None
    assert spool.find("B") is None


def test_a_layer_that_the_site_keeps_is_not_there(spool):
    spool.put("A", Layers.of({"stage1.a": ARRAYS["stage1.a"]}), result(local_layers=("stage1.b",)))
    assert list(found(spool)) == ["stage1.a"]
    assert spool.find("A").result.local_layers == ("stage1.b",)


def test_a_later_reply_takes_the_place_of_an_earlier(spool):
    spool.put("A", Layers.of(ARRAYS), result(1))
    spool.put("A", Layers.of({"stage1.a": ARRAYS["stage1.a"] + 1}), result(2))
    assert spool.find("A").cases == 2
    assert found(spool)["stage1.a"].tolist() == (ARRAYS["stage1.a"] + 1).reshape(-1).tolist()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + bytes(4))


def flip(path):
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, lengthen, flip, empty, lambda path: path.unlink()])
@pytest.mark.parametrize("ending", ["bin", "json"])
def test_a_reply_that_is_not_whole_is_none(spool, tmp_path, harm, ending):
    spool.put("A", Layers.of(ARRAYS), result())
    spool.put("B", Layers.of(ARRAYS), result())
    harm(tmp_path / "spool" / "m" / f"A.{ending}")
    assert spool.find("A") is None
    assert spool.find("B") is not None


def test_a_note_of_another_release_is_none(spool, tmp_path):
    spool.put("A", Layers.of(ARRAYS), result())
    path = tmp_path / "spool" / "m" / "A.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float16"}))
    assert spool.find("A") is None


def test_a_disk_that_fills_leaves_no_half_reply(spool, tmp_path, monkeypatch):
    """Neither of the reply that did not fit, nor of the one that it was to replace."""
    spool.put("A", Layers.of(ARRAYS), result())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.spool.write_text_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        spool.put("A", Layers.of({"stage1.a": ARRAYS["stage1.a"] + 1}), result())
    assert spool.find("A") is None
    assert list((tmp_path / "spool" / "m").iterdir()) == []


def test_a_cleared_spool_is_empty_and_can_be_used_again(spool, tmp_path):
    spool.clear()
    spool.put("A", Layers.of(ARRAYS), result())
    spool.clear()
    assert spool.find("A") is None
    assert not (tmp_path / "spool" / "m").exists()
    spool.put("A", Layers.of(ARRAYS), result())
    assert spool.find("A") is not None


def test_the_key_of_weights_is_of_their_names_and_numbers():
    key = weights_key(ARRAYS)
    assert weights_key({name: array.copy() for name, array in ARRAYS.items()}) == key
    assert weights_key(dict(reversed(ARRAYS.items()))) == key
    assert weights_key(ARRAYS | {"stage1.b": np.array(0.0, np.float32)}) != key  # -0.0 is another bit
    renamed = {name.replace("stage1.b", "stage1.c"): array for name, array in ARRAYS.items()}
    assert weights_key(renamed) != key


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.data())
def test_any_part_is_that_part(tmp_path_factory, values, data):
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    spool = Spool(tmp_path_factory.mktemp("spool"), "key")
    spool.put("A", Layers.of({"first": np.ones(3, np.float16), "second": np.array(values, np.float16)}), result())
    assert spool.find("A").part("second", slice(start, stop)).tolist() == values[start:stop]
