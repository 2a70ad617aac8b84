"""What ran out, memory or disk, told by whatever Python, NumPy, torch or safetensors raise over it."""

import errno
import re
import sys
from collections.abc import Iterator

from common.errors import AuditError, DiskFullError, FedgtvError, OutOfMemoryError, WorkError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CUT_SHORT = re.compile(r"^\d+ requested and \d+ written$")
"""All that NumPy says, without a number, of an array that it could not write whole."""
CPU_ALLOCATOR = "DefaultCPUAllocator: "
"""Begins what torch says, in a RuntimeError, of memory that a CPU has not."""


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error says that there is no room on a disk, or no quota."""
    if not isinstance(error, OSError):
        return False
    return error.errno in FULL or (error.errno is None and CUT_SHORT.match(str(error)) is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a GPU or the machine has no memory left."""
    torch = sys.modules.get("torch")  # where it was never imported, it raised nothing
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error))


def explained(error: Exception) -> Exception:
    """Returns an error that names what ran out and the remedy, or `error` itself where nothing did.

    An error of ours keeps its own code, but for `work-failed`, which says less.
    """
    if isinstance(error, AuditError) or (isinstance(error, FedgtvError) and error.code != WorkError.code):
        return error
    for cause in _causes(error):
        if is_disk_full(cause):
            where = getattr(cause, "filename", None)
            return DiskFullError(
                f"{f'{where}: ' if where else ''}the disk is full, or its quota ({cause}); free space there, or move "
                "the folder; the work then goes on where it was"
            )
        if is_out_of_memory(cause):
            return OutOfMemoryError(
                f"memory ran out ({_first_line(cause)}); end what else uses the GPU or the machine's memory, or take "
                "another `device` in site.yaml; else the recipe needs a smaller batch_size or patch_size"
            )
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, each once."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and all(following is not each for each in seen):
        yield following
        seen.append(following)
        following = following.__cause__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
