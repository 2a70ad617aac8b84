"""How much of the disk a site takes."""

import os
from pathlib import Path


def bytes_below(folder: Path) -> int:
    """Returns the bytes of all files below a folder, 0 where it is none; a file that goes meanwhile is not counted."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total
