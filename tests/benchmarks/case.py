"""Times one case end to end without the network, step by step: DICOM in, RTSTRUCT out, on 512 x 512 x 130 voxels.

The scores that a network would give are the phantom's true tumour, brought onto the network's grid. SimpleITK's series
reader is the peer of the reading; the rest has none that does the same.
Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. .venv-bench/bin/python tests/benchmarks/case.py
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from _peers import best_of

from common.dicom import read_ct_series
from common.phantom import make_phantom
from common.phantom_dicom import DICOM_FOLDER, write_phantom
from common.pictures import overlay_png
from common.preprocess import LABEL_THRESHOLD, prepare, restore
from common.recipe import PreprocessConfig
from common.resample import resample_linear
from common.rtstruct import choose_structure, contours_to_mask, read_rtstruct
from common.rtstruct_writer import write_rtstruct
from common.statistics import Normalisation
from common.volume import Geometry, Volume, to_lps, write_nifti

NUM_SLICES = 130
REPEATS = 5
NORMALISATION = Normalisation(-60.0, 300.0)


def phantom_of(institution):
    """A phantom of 130 slices, the lowest left out."""
    seeds = (make_phantom(institution, seed) for seed in range(100))
    phantom = next(p for p in seeds if len(p.image.array) >= NUM_SLICES)
    kept = slice(len(phantom.image.array) - NUM_SLICES, None)
    geometry = phantom.image.geometry
    origin = (*geometry.origin_mm[:2], geometry.origin_mm[2] + kept.start * geometry.spacing_mm[0])
    image = Volume(phantom.image.array[kept], Geometry((NUM_SLICES, *geometry.size[1:]), geometry.spacing_mm, origin))
    arrays = {name: getattr(phantom, name)[kept] for name in ("truth", "delineated", "body", "couch", "decoys")}
    return replace(phantom, image=image, **arrays)


def by_simpleitk(folder):
    """The series as SimpleITK reads it, unchecked."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def restored_mask(scores, prepared):
    """What a segmentation does after the network: back to the scan, cut at the threshold, inside the body."""
    inside = restore(prepared.body.astype(np.float32), prepared.record) >= LABEL_THRESHOLD
    return (restore(scores, prepared.record) >= 0.6) & inside


def steps(institution, folder):
    """Yields (step, seconds, seconds of the first time); prints how the contour that was written compares."""
    phantom = phantom_of(institution)
    case = folder / institution
    write_phantom(phantom, case, 1)
    scan, written = case / DICOM_FOLDER, folder / f"{institution}.dcm"
    results = {}

    def timed(name, function, *arguments):
        start = time.process_time()
        function(*arguments)
        first = time.process_time() - start
        seconds, results[name] = best_of(REPEATS, function, *arguments)
        return name, seconds, first

    yield timed("read the CT series", read_ct_series, scan)
    series = results["read the CT series"]
    yield timed("body, crop, spline", prepare, [series.volume], None, PreprocessConfig())
    prepared = results["body, crop, spline"]
    yield timed("normalise", NORMALISATION.apply, prepared.image)
    truth = to_lps(Volume(phantom.truth, phantom.image.geometry)).array[prepared.record.box]
    scores = resample_linear(truth, prepared.record.resampled_shape)
    yield timed("scores to a mask on the scan", restored_mask, scores, prepared)
    mask = results["scores to a mask on the scan"]
    yield timed("write the RTSTRUCT", write_rtstruct, mask, series, written, "GTVnx_auto")
    back = contours_to_mask(choose_structure(read_rtstruct(written).structures, ["auto"]), series.volume.geometry)
    overlap = 2 * np.count_nonzero(mask & phantom.truth) / (np.count_nonzero(mask) + np.count_nonzero(phantom.truth))
    print(f"{institution}: the RTSTRUCT holds the mask within {np.count_nonzero(back ^ mask)} of "
          f"{np.count_nonzero(mask)} voxels; DSC of the mask and the true tumour {overlap:.3f}")  # fmt: skip
    yield timed(
        "also: mask.nii.gz", write_nifti, Volume(mask.astype(np.uint8), series.volume.geometry), folder / "m.nii.gz"
    )
    lps = to_lps(series.volume)
    yield timed("also: overlay.png", overlay_png, lps.array, lps.geometry.spacing_mm, None, mask, "predicted")
    yield timed("peer of reading: SimpleITK", by_simpleitk, scan)


def main():
    """Prints a line a step: milliseconds of each institution's scan, the first time and the best."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cv2.setNumThreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as name:
        columns = {institution: list(steps(institution, Path(name))) for institution in "ABC"}
    print("\n| step | " + " | ".join(f"{each}, ms (first)" for each in columns) + " |\n|---|" + "---|" * len(columns))
    for rows in zip(*columns.values(), strict=True):
        print(
            f"| {rows[0][0]} | " + " | ".join(f"{best * 1e3:.0f} ({first * 1e3:.0f})" for _, best, first in rows) + " |"
        )
    sums = [[sum(row[k] for row in rows if ":" not in row[0]) for k in (1, 2)] for rows in columns.values()]
    print(
        "| DICOM in, RTSTRUCT out | "
        + " | ".join(f"{best * 1e3:.0f} ({first * 1e3:.0f})" for best, first in sums)
        + " |"
    )


if __name__ == "__main__":
    main()
