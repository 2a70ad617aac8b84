"""A site of a few imported cases, each of some thousand voxels, alike but for a voxel of air."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.dataset import CaseEntry, write_index
from common.volume import Geometry, Volume, write_nifti

GRID = Geometry((16, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, 0.0))


def hu() -> NDArray[np.int16]:
    """(z, y, x) HU: a body of 40 HU in air, with a bone of 400 HU along its axis."""
    drawn = np.full(GRID.size, -1000, np.int16)
    drawn[:, 4:20, 4:20] = 40
    drawn[:, 10:12, 10:12] = 400
    return drawn


def label() -> NDArray[np.uint8]:
    """(z, y, x): a target of 4 x 4 x 4 voxels of 64 mm3, which is 4.096 ml."""
    drawn = np.zeros(GRID.size, np.uint8)
    drawn[6:10, 6:10, 6:10] = 1
    return drawn


def make_site(folder: Path, site: str = "A", num_cases: int = 3, policy: dict[str, Any] | None = None) -> Path:
    """Writes the cases and a site.yaml below `folder`, which is made, and returns the latter's path."""
    folder.mkdir(parents=True)
    config = {"site": site, "device": "cpu", "num_threads": 1, "policy": policy or {"min_cases": 1}}
    (folder / "site.yaml").write_text(json.dumps(config))
    entries = []
    for number in range(1, num_cases + 1):
        name = f"{site}-{number:04d}"
        (folder / "cases" / name).mkdir(parents=True)
        image = hu()
        image[0, 0, 1] += number
        write_nifti(Volume(image, GRID), folder / "cases" / name / "image.nii.gz")
        write_nifti(Volume(label(), GRID), folder / "cases" / name / "label.nii.gz")
        entries.append(CaseEntry(name, name, (f"{name}/image.nii.gz",), f"{name}/label.nii.gz"))
    write_index(folder / "cases", entries)
    return folder / "site.yaml"
