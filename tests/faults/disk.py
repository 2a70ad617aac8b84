"""A small disk of its own at a folder, and a file that fills it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, num_mb: int) -> Iterator[Path]:
    """A disk of so many megabytes at an empty folder, as root; elsewhere the test is skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_mb}m", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk needs root and leave to mount ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path, left_bytes: int = 0) -> Iterator[None]:
    """Leaves so many bytes of the disk below `folder` free while the block lasts."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - left_bytes)
    try:
        yield
    finally:
        ballast.unlink()
