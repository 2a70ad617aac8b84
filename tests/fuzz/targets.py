"""What is fuzzed: the readers of files that come from outside, each with files to damage."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from corpus.entry import save
from corpus.phantom import make_case, make_slices, make_structures
from fuzz.mutations import mutated
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from common.dicom import read_ct_series, scan_folder
from common.errors import FedgtvError
from common.rtstruct import draw_structure, read_references, read_rtstruct, write_rtstruct
from common.volume import Volume, read_nifti, write_nifti

SMALL = np.s_[3:7, 8:24, 6:22]
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True)
class Target:
    """A reader; `run` takes the path of a damaged file of the given name and returns nothing."""

    name: str
    file_name: str
    seeds: tuple[bytes, ...]
    run: Callable


def make_targets(folder):
    """Returns the targets; their files are made in `folder` and refer to a CT there."""
    case = make_case()
    geometry = Volume(case.hu, case.geometry).geometry
    slices = make_slices(case)
    save(folder / "whole", slices)
    series = read_ct_series(folder / "whole")
    write_rtstruct(case.mask, series, folder / "ours.dcm", "GTV")
    foreign = [as_bytes(make_structures(case, slices), syntax) for syntax in SYNTAXES]
    structures = ((folder / "ours.dcm").read_bytes(), *foreign)
    small = case.but(hu=case.hu[SMALL], mask=case.mask[SMALL])
    cut = make_slices(small)
    save(folder / "series", cut)
    write_nifti(Volume(small.mask.astype(np.float32), _grid(small)), folder / "label.nii")

    def read_structures(path):
        for structure in read_rtstruct(path).structures:
            if structure.contours:
                assert all(np.isfinite(contour).all() for contour in structure.contours)
                draw_or_refuse(structure, geometry)
        read_references(path)

    def read_series(path):
        """The damaged slice stands for the second of a series."""
        (folder / "series" / "ct-001.dcm").write_bytes(path.read_bytes())
        scan_folder(folder / "series")
        read_ct_series(folder / "series")

    return (
        Target("RTSTRUCT", "input.dcm", structures, read_structures),
        Target("CT slice", "input.dcm", tuple(as_bytes(cut[1], syntax) for syntax in SYNTAXES[:2]), read_series),
        Target("NIfTI", "input.nii", ((folder / "label.nii").read_bytes(),), read_nifti),
    )


def _grid(case):
    """The phantom's grid, for another size."""
    return type(case.geometry)(case.hu.shape, case.geometry.spacing_mm)


def draw_or_refuse(structure, geometry):
    try:
        draw_structure(structure, geometry)
    except FedgtvError as error:
        check_line(error)


def check_line(error):
    """Raises unless an error of ours is one line."""
    assert "\n" not in str(error), str(error)


def as_bytes(dataset, syntax):
    fresh = Dataset(dataset)
    fresh.file_meta = dataset.file_meta
    fresh.file_meta.TransferSyntaxUID = syntax
    written = io.BytesIO()
    fresh.save_as(written, enforce_file_format=True)
    return written.getvalue()


def try_one(target, rng, folder):
    """Gives the reader one damaged file; returns whether it was read (our errors mean that it was refused).

    Raises:
        Exception: a finding: any other error, a warning that reaches the user, or an error of several lines.
    """
    path = folder / target.file_name
    path.write_bytes(mutated(rng, target.seeds[int(rng.integers(0, len(target.seeds)))]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            target.run(path)
        except FedgtvError as error:
            check_line(error)
            return False
    return True
