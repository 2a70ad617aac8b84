"""Entries of the corpus: how an odd input is made, and what import must do with it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from corpus.phantom import Case, make_case, make_slices, make_structures
from pydicom import Dataset

from common.site_config import IngestConfig
from common.volume import Volume, write_nifti

UNREAD = "1 file beside its slices or structure set cannot be read"
"""The warning of a damaged file, which may be one of them."""


@dataclass(frozen=True)
class Entry:
    """One input; `make` writes it into a folder and returns the case that it stands for."""

    name: str
    make: Callable[[Path], Case | None]
    refused: str = ""
    """Words of the one line with which it is refused; empty: imported as the case that `make` returns."""
    warned: str = ""
    """Words of the warning that goes with an import."""
    beside: str = ""
    """Words of a line about a file beside the case, which is imported all the same."""
    checked: str = ""
    """Words of an error by which the site's check keeps an imported case from training."""
    config: IngestConfig = field(default_factory=IngestConfig)


def save(folder, slices, structures=None):
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"ct-{index:03d}.dcm": dataset for index, dataset in enumerate(slices)}
    for name, dataset in (files | ({"rt.dcm": structures} if structures else {})).items():
        fresh = Dataset(dataset)  # a FileDataset cannot be written in another byte order than it was made for
        fresh.file_meta = dataset.file_meta
        fresh.save_as(folder / name, enforce_file_format=True)


def dicom(name, change=None, after=None, case=None, **expected):
    """An entry of CT and RTSTRUCT: `change(slices, structures)` before they are saved, `after(folder)` on the files.

    `case` turns the phantom into the case that is expected.
    """

    def make(folder):
        original = make_case()
        slices = make_slices(original)
        structures = make_structures(original, slices)
        if change:
            change(slices, structures)
        save(folder / "p1", slices, structures)
        if after:
            after(folder / "p1")
        return case(original) if case else original

    return Entry(name, make, **expected)


def nifti(name, change=None, after=None, case=None, **expected):
    """An entry of image and label: `change(image, label)` returns both volumes, `after(folder)` works on the files."""

    def make(folder):
        original = make_case()
        image = Volume(original.hu, original.geometry)
        label = Volume(original.mask.astype(np.uint8), original.geometry)
        image, label = change(image, label) if change else (image, label)
        (folder / "p1").mkdir()
        write_nifti(image, folder / "p1" / "ct.nii.gz")
        write_nifti(label, folder / "p1" / "gtv.nii.gz")
        if after:
            after(folder / "p1")
        return case(original) if case else original

    return Entry(name, make, **expected)
