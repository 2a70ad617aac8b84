"""What ran out, told from the errors that the system, NumPy and torch really raise, not from made ones alone."""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import load_weights, save_weights
from common.errors import AuditError, CheckpointError, DiskFullError, OutOfMemoryError, WorkError
from common.shortage import explained, is_disk_full, is_out_of_memory


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_that_find_no_room_leave_the_old_file(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": np.ones(3, np.float32)}, {})
    with pytest.raises(OSError, match="File too large") as told:
        save_weights(path, {"a": np.zeros(100_000, np.float32)}, {})
    assert told.value.errno == errno.EFBIG
    assert told.value.filename == str(path)
    assert is_disk_full(told.value)
    assert load_weights(path)[0]["a"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


def test_an_array_that_numpy_cannot_write_whole(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(OSError, match="requested and") as told:
        np.save(tmp_path / "image.npy", np.zeros(1_000_000, np.int16))
    assert is_disk_full(told.value)
    assert isinstance(explained(told.value), DiskFullError)


def test_memory_that_the_machine_has_not() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(told.value)
    with pytest.raises(MemoryError) as array:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(array.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/site/cache/image.npy")


def test_what_ran_out_is_named_with_the_remedy() -> None:
    full = explained(FULL)
    assert isinstance(full, DiskFullError)
    assert str(full).startswith("/site/cache/image.npy: the disk is full")
    assert "free space there" in str(full)
    memory = explained(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nSee docs"))
    assert isinstance(memory, OutOfMemoryError)
    assert "(CUDA out of memory. Tried 2 GiB.); end what else uses the GPU" in str(memory)


@pytest.mark.parametrize("error", [WorkError("no result"), ValueError("no result")])
def test_what_was_behind_an_error_is_found(error: Exception) -> None:
    assert explained(error) is error
    assert isinstance(explained(caused(error, caused(RuntimeError("x"), FULL))), DiskFullError)


@pytest.mark.parametrize("error", [AuditError("no line"), CheckpointError("other network"), OutOfMemoryError("gpu")])
def test_an_error_with_a_code_that_says_more_keeps_it(error: Exception) -> None:
    assert explained(caused(error, FULL)) is error


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    one = RuntimeError("x")
    assert explained(caused(one, caused(ValueError("y"), one))) is one
