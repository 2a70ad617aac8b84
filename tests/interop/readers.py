"""RTSTRUCTs that we write, read by independent packages: `make interop` prints how well their masks agree with ours.

The exit code is 1 unless all agree on every voxel, but for what `KNOWN` explains.
"""

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from corpus.entry import save
from corpus.phantom import make_case, make_slices

from common.dicom import read_ct_series
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom
from common.rtstruct import contours_to_mask, read_rtstruct, write_rtstruct
from common.volume import IDENTITY, Geometry

NAME = "GTV fedgtv"
SMALL = np.s_[:, :40, :]
TURN = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
FEET_FIRST = (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)


def by_rt_utils(ct, rtstruct):
    from rt_utils import RTStructBuilder

    mask = RTStructBuilder.create_from(str(ct), str(rtstruct)).get_roi_mask_by_name(NAME)
    return mask.transpose(2, 0, 1)


def by_dcmrtstruct2nii(ct, rtstruct):
    pydicom.read_file = pydicom.dcmread  # the name that pydicom 3 took away, and dcmrtstruct2nii 5 still calls
    from dcmrtstruct2nii import dcmrtstruct2nii

    with tempfile.TemporaryDirectory() as folder:
        dcmrtstruct2nii(str(rtstruct), str(ct), folder, structures=[NAME], convert_original_dicom=False)
        (path,) = Path(folder).glob("mask_*.nii.gz")
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0


def by_dicom_rt_tool(ct, rtstruct):
    from DicomRTTool.ReaderWriter import DicomReaderWriter

    with tempfile.TemporaryDirectory() as folder:
        for path in (*Path(ct).iterdir(), Path(rtstruct)):
            (Path(folder) / path.name).write_bytes(path.read_bytes())
        reader = DicomReaderWriter(Contour_Names=[NAME.lower()], verbose=False)
        reader.walk_through_folders(folder)
        reader.get_images_and_mask()
        return reader.mask > 0


READERS = {"rt-utils": by_rt_utils, "dcmrtstruct2nii": by_dcmrtstruct2nii, "DicomRTTool": by_dicom_rt_tool}
KNOWN = {
    (
        "oblong pixels",
        "rt-utils",
    ): "takes the spacing of rows for that of columns (PS3.3 C.7.6.2.1.1)",
}


def cases(folder):
    """(name, folder of the CT slices, mask) of every phantom."""
    for institution in "ABC":
        phantom = make_phantom(institution, seed=3, scale=0.25)
        write_phantom(phantom, folder / institution, 1)
        for path in (folder / institution / "dicom").glob("RS.*"):
            path.unlink()
        yield f"institution {institution}", folder / institution / "dicom", phantom.truth
    for name, direction in {"oblique": TURN, "feet first": FEET_FIRST, "oblong pixels": None}.items():
        case = square_case(direction)
        save(folder / name, make_slices(case))
        yield name, folder / name, case.mask


def square_case(direction):
    """The corpus's phantom with as many rows as columns, since some readers take one for the other."""
    case = make_case()
    hu, mask = case.hu[SMALL], case.mask[SMALL]
    spacing_mm = (3.0, 1.25, 1.25 if direction else 1.75)
    geometry = Geometry(hu.shape, spacing_mm, (5.0, 6.0, 7.0), direction or IDENTITY)
    return case.but(hu=hu, mask=mask, geometry=geometry)


def dsc(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def read_quietly(reader, *arguments):
    """Returns a reader's mask, or why there is none."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            return reader(*arguments), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"


def row(name, package, ours, theirs, why):
    """Prints a row of the table; returns whether it is as it should be."""
    if theirs is None or theirs.shape != ours.shape:
        print(f"| {name} | {package} | | | | {why or theirs.shape} |", flush=True)
        return False
    known = KNOWN.get((name, package), "")
    only_ours, only_theirs = np.count_nonzero(ours & ~theirs), np.count_nonzero(theirs & ~ours)
    print(f"| {name} | {package} | {dsc(ours, theirs):.4f} | {only_ours} | {only_theirs} | {known} |", flush=True)
    return np.array_equal(ours, theirs) or bool(known)


def main():
    print("| CT | reader | DSC | voxels of ours alone | of theirs alone | why |\n|---|---|---|---|---|---|")
    good = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, ct, mask in cases(Path(temporary)):
            series, rtstruct = read_ct_series(ct), Path(temporary) / "rt.dcm"
            write_rtstruct(mask, series, rtstruct, NAME)
            ours = contours_to_mask(read_rtstruct(rtstruct).structures[0], series.volume.geometry)
            good.append(np.array_equal(ours, mask))
            for package, reader in READERS.items():
                good.append(row(name, package, ours, *read_quietly(reader, ct, rtstruct)))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
