"""Weights files: exact there and back, atomic, refused by name where they belong to another network."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import checkpoint
from common.checkpoint import load_into, load_metadata, load_weights, save_weights
from common.errors import CheckpointError

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def weights() -> dict[str, np.ndarray]:
    return {f"stage1.{name}": tensor.numpy().copy() for name, tensor in network().state_dict().items()}


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    tensors = {
        "stage1.a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "stage1.b": torch.tensor([[1.5, -2.0], [0.25, np.inf]], dtype=torch.float16, requires_grad=True).T,
        "stage2.c": np.array(4.0, np.float32),
        "count": np.array([2**40], np.int64),
    }
    save_weights(path, tensors, {"recipe": '{"ü": 1}', "normalisation": "mean"})
    arrays, metadata = load_weights(path)
    assert metadata == {"recipe": '{"ü": 1}', "normalisation": "mean", "format": "fedgtv-2"}
    assert set(arrays) == set(tensors)
    assert arrays["stage1.a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["stage1.b"].dtype == np.float16
    assert arrays["stage1.b"].tolist() == [[1.5, 0.25], [-2.0, np.inf]]
    assert arrays["stage2.c"].shape == ()
    assert arrays["count"][0] == 2**40


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from pathlib import Path
from common.checkpoint import save_weights
names, keys = sys.argv[2].split(","), sys.argv[3].split(",")
weights = {name: np.full((2, 3), len(name), np.float32) for name in names}
save_weights(Path(sys.argv[1]), weights, {key: key * 3 for key in keys})
"""
    names, keys = ["b", "aaa", "cc"], ["recipe", "normalisation", "model", "round", "split"]
    for number, orders in enumerate(((names, keys), (names[::-1], keys[::-1]))):
        arguments = [str(tmp_path / f"{number}.safetensors"), *(",".join(order) for order in orders)]
        subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": np.ones(2, np.float32)}, {})

    def cut_short(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", cut_short)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"a": np.zeros(2, np.float32)}, {})
    assert load_weights(path)[0]["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_the_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "model.safetensors", []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(path.exists()), flush(handle))[1])
    save_weights(path, {"a": np.ones(2, np.float32)}, {})
    assert seen == [False, True]


@pytest.mark.parametrize("content", [b"", b"\x08", b"x" * 100, pickle.dumps({"a": 1}), struct.pack("<Q", 2**60)])
def test_no_weights_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_weights(path)


def test_missing_cut_short_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_weights(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(tmp_path)
    save_weights(path, {"a": np.ones(100, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(path)
    for metadata in ({}, {"format": "fedgtv-2"}, {"fedgtv": "no json"}, {"fedgtv": "[1]"}, {"fedgtv": "[" * 100_000}):
        array = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        header = json.dumps({"__metadata__": metadata, "a": array}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
        with pytest.raises(CheckpointError, match=r"format is 'not stated'; expected 'fedgtv-2'"):
            load_weights(path)


def raw(tensors: object, data: bytes = b"", metadata: object = None, length: int | None = None) -> bytes:
    """A safetensors file with this header, true or not (the format: 8 bytes of header length, JSON, data)."""
    told = {"__metadata__": {"fedgtv": json.dumps({"format": "fedgtv-2"})} if metadata is None else metadata}
    header = json.dumps(told | tensors if isinstance(tensors, dict) else tensors).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class Evil:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("unpickled",)


GOOD = {"stage1.0.weight": np.zeros((2, 3), np.float32), "stage1.0.bias": np.zeros(2, np.float32),
        "stage1.1.weight": np.zeros((1, 2), np.float32), "stage1.1.bias": np.zeros(1, np.float32)}  # fmt: skip
BIAS = "stage1.0.bias"


def saved(change: dict[str, object]) -> bytes:
    """A well-formed file with weights that are not what they should be."""
    path = Path("made.safetensors")
    save_weights(path, {name: value for name, value in (GOOD | change).items() if value is not None}, {})
    data = path.read_bytes()
    path.unlink()
    return data


HOSTILE = {
    "pickle": lambda: pickle.dumps(Evil()),
    "torch file": lambda: b"PK\x03\x04" + pickle.dumps(Evil()),
    "object array": lambda: b"\x93NUMPY" + pickle.dumps(Evil()),
    "header longer than the file": lambda: raw({}, length=10**6),
    "header of exabytes": lambda: raw({}, length=2**63),
    "negative header": lambda: raw({}, length=2**64 - 1),
    "header that is a list": lambda: raw([1, 2]),
    "header that is no JSON": lambda: struct.pack("<Q", 4) + b"{{{{",
    "header nested too deep": lambda: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "tensor without a shape": lambda: raw({"a": {"dtype": "F32"}}),
    "offsets behind the end": lambda: raw({"a": tensor(offsets=(0, 80), shape=(20,))}, bytes(8)),
    "offsets before the start": lambda: raw({"a": tensor(offsets=(-8, 0))}, bytes(8)),
    "offsets backwards": lambda: raw({"a": tensor(offsets=(8, 0))}, bytes(8)),
    "two tensors on the same bytes": lambda: raw({"a": tensor(), "b": tensor()}, bytes(8)),
    "a gap between tensors": lambda: raw({"a": tensor(), "b": tensor(offsets=(16, 24))}, bytes(24)),
    "bytes that no tensor has": lambda: raw({"a": tensor()}, bytes(80)),
    "shape that overflows": lambda: raw({"a": tensor(shape=(2**40, 2**40))}, bytes(8)),
    "negative shape": lambda: raw({"a": tensor(shape=(-2,))}, bytes(8)),
    "shape of text": lambda: raw({"a": tensor(shape="many")}, bytes(8)),
    "unknown dtype": lambda: raw({"a": tensor(dtype="PICKLE")}, bytes(8)),
    "bf16, which NumPy has not": lambda: raw({"a": tensor(dtype="BF16", shape=(4,))}, bytes(8)),
    "fp8, which NumPy has not": lambda: raw({"a": tensor(dtype="F8_E4M3", shape=(8,))}, bytes(8)),
    "metadata that are numbers": lambda: raw({"a": tensor()}, bytes(8), metadata={"fedgtv": 3}),
    "no metadata": lambda: raw({"a": tensor()}, bytes(8), metadata={}),
    "metadata nested too deep": lambda: raw({"a": tensor()}, bytes(8), metadata={"fedgtv": "[" * 100_000}),
    "another format": lambda: raw({"a": tensor()}, bytes(8), metadata={"fedgtv": '{"format": "fedgtv-99"}'}),
    "NaN": lambda: saved({BIAS: np.array([np.nan, 0], np.float32)}),
    "infinity": lambda: saved({BIAS: np.array([0, -np.inf], np.float32)}),
    "integers": lambda: saved({BIAS: np.zeros(2, np.int64)}),
    "fp64": lambda: saved({BIAS: np.zeros(2, np.float64)}),
    "another shape": lambda: saved({BIAS: np.zeros((1, 2), np.float32)}),
    "scalar": lambda: saved({BIAS: np.array(0, np.float32)}),
    "empty": lambda: saved({BIAS: np.zeros((0, 2), np.float32)}),
    "a tensor missing": lambda: saved({BIAS: None}),
    "a tensor too many": lambda: saved({"stage1.../../etc/passwd\x1b[2J" + "x" * 1000: np.zeros(2, np.float32)}),
}


def test_there_are_at_least_twenty_hostile_files() -> None:
    assert len(HOSTILE) >= 20


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_weights_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name]())
    module = network()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        load_into(module, load_weights(path)[0], "stage1.")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500 + len(str(path))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert list(tmp_path.iterdir()) == [path]


def test_load_into_copies_the_prefix_alone() -> None:
    given = weights()
    target = network()
    load_into(target, {**given, "stage2.0.weight": np.zeros(7)}, "stage1.")
    for name, tensor in target.state_dict().items():
        assert np.array_equal(tensor.numpy(), given[f"stage1.{name}"])
    given["stage1.0.bias"][:] = 99
    assert 99 not in target.state_dict()["0.bias"].tolist()
    load_into(target, target.state_dict(), "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stage1.0.bias"), r"stage1\.0\.bias is missing"),
        (lambda w: w.update({"stage1.2.weight": np.zeros(1)}), r"stage1\.2\.weight is not part of this network"),
        (lambda w: w.update({"stage1.1.weight": np.zeros((2, 1), np.float32)}), r"shape \(2, 1\), expected \(1, 2\)"),
        (lambda w: w.update({"stage1.1.bias": np.zeros(1, np.float16)}), "dtype float16, expected float32"),
        (lambda w: w.clear(), r"stage1\.0\.weight is missing"),
    ],
)
def test_the_first_mismatch_is_named_and_nothing_copied(change: object, message: str) -> None:
    given, target = weights(), network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    change(given)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=f"checkpoint of another network: .*{message}"):
        load_into(target, given, "stage1.")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_metadata_are_read_without_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": np.ones(100, np.float32)}, {"model": "m"})
    assert load_metadata(path) == load_weights(path)[1] == {"model": "m", "format": "fedgtv-2"}
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_metadata(path)
