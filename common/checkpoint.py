"""Weights at rest: safetensors files, written atomically, read without unpickling, checked name by name.

A model's tensors are called `stage1.<parameter>` and `stage2.<parameter>`; its metadata are strings, among them the
JSON of its recipe and of the intensity normalisation, without which the weights are of no use. Equal weights with equal
metadata make equal bytes. Reading and writing need no torch.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.atomic import replacing
from common.errors import CheckpointError
from common.private import private_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]
Weights = dict[str, Array]
"""A model's arrays by name, at rest, at work and on the wire."""
METADATA = "fedgtv"
"""The one key of the file's own metadata, with ours as JSON: safetensors writes several keys in an order by chance."""
MAX_NAME = 80
"""Of a foreign tensor's name, so much is shown."""
FORMAT = "fedgtv-2"
"""Metadata key `format`: changes when older files can no longer be read."""


def save_weights(path: Path, weights: "Mapping[str, Array | Tensor]", metadata: Mapping[str, str]) -> None:
    """Writes `path` with everything or not at all: a killed process leaves the old file. Its owner alone may read it.

    Args:
        path: the folder is made where it is missing.
        weights: name to array or tensor of any device.
        metadata: strings that come back from `load_weights`; the key `format` is ours.

    Raises:
        OSError: the disk is full, or the folder not writable; an older file stands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: as_array(value) for name, value in weights.items()}
    described = {METADATA: json.dumps({**metadata, "format": FORMAT}, sort_keys=True)}
    with replacing(path, private_mode(path.parent)) as unfinished:
        try:
            save_file(arrays, unfinished, described)
        except SafetensorError as error:
            raise _as_os_error(error, path) from error


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """What the system said: safetensors names its number within a text alone."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = int(told[1]) if told else errno.EIO
    return OSError(number, os.strerror(number), str(path))


def load_weights(path: Path) -> tuple[Weights, dict[str, str]]:
    """Returns name to array, and the metadata, of a file by `save_weights`.

    Raises:
        CheckpointError: missing, cut short, or no fedgtv weights.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, _checked_metadata(file, path)


def load_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata alone, without reading the weights (CheckpointError: as `load_weights`)."""
    with _opened(path) as file:
        return _checked_metadata(file, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except CheckpointError:
        raise
    except (AttributeError, KeyError, MemoryError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights ({_reason(path, error)}); expected a .safetensors file; "
            "give one of a run's models folder"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Our own words: safetensors' may quote what stands in the file."""
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a folder"
    return (isinstance(error, OSError) and error.strerror) or "other contents, or cut short"


def _checked_metadata(file: Any, path: Path) -> dict[str, str]:
    metadata = _metadata(file.metadata() or {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format is {metadata.get('format', 'not stated')!r}; expected {FORMAT!r}; "
            "give a file of a run's models folder, made by this version"
        )
    return metadata


def _metadata(stored: Mapping[str, str]) -> dict[str, str]:
    """Ours as strings; empty where there are none, or what stands there is no JSON object."""
    try:
        metadata = json.loads(stored.get(METADATA, "{}"))
    except (ValueError, RecursionError):  # the latter of JSON nested too deep
        return {}
    return {key: str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}


def load_into(module: "nn.Module", weights: "Mapping[str, Array | Tensor]", prefix: str) -> None:
    """Copies the tensors called `<prefix><parameter>`, such as prefix `stage1.`, into `module`; ignores the others.

    Raises:
        CheckpointError: a name is missing or too many, a shape or dtype differs, or a number is not finite; nothing
            was copied then.
    """
    state = module.state_dict()
    given = {name.removeprefix(prefix): as_array(value) for name, value in weights.items() if name.startswith(prefix)}
    mismatch = _first_mismatch({name: as_array(value) for name, value in state.items()}, given)
    if mismatch:
        raise CheckpointError(f"checkpoint of another network: {prefix}{mismatch}; use the recipe it was trained with")
    for name, tensor in state.items():
        tensor.copy_(tensor.new_tensor(given[name]))


def as_array(value: "Array | Tensor") -> Array:
    """Returns a contiguous array of the same dtype, sharing memory where it can."""
    return np.asarray(value if isinstance(value, np.ndarray) else value.detach().cpu().numpy(), order="C")


def _first_mismatch(expected: Mapping[str, Array], given: Mapping[str, Array]) -> str:
    for name, array in expected.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != array.shape:
            return f"{name} has shape {given[name].shape}, expected {array.shape}"
        if given[name].dtype != array.dtype:
            return f"{name} has dtype {given[name].dtype}, expected {array.dtype}"
        if not np.isfinite(given[name]).all():
            return f"{name} holds NaN or infinity, which no network has"
    extra = sorted(set(given) - set(expected))
    return f"{ascii(extra[0][:MAX_NAME])[1:-1]} is not part of this network" if extra else ""
