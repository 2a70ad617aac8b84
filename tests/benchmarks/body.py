"""Body, bed and neck on phantoms of three institutions against their truth, and on real CTs; and the time they take.

Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/body.py [--phantoms 200] [--scale 1]
Accuracy on phantoms of `scale`, time on one of 512 x 512 pixels. With FEDGTV_DATA, the CTs in its dicom/ follow.
"""

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from common.body import body_mask
from common.dicom import find_ct_series, read_ct_series
from common.errors import ImageError
from common.phantom import make_phantom
from common.recipe import RoiConfig
from common.region import region_of_interest
from common.volume import to_lps

ROI = RoiConfig()
NECK_SLICES = 2


def found(volume):
    """Returns mask, box, neck's slice and flags of a volume whose axes are LPS."""
    spacing_mm = volume.geometry.spacing_mm
    body = body_mask(volume.array, spacing_mm, ROI)
    box, flags = region_of_interest(body.mask, spacing_mm, ROI)
    neck = box[0].start + int(np.ceil(ROI.neck_margin_mm / spacing_mm[0]))
    return body.mask, box, neck, (*body.flags, *flags)


def row_of(phantom):
    """Returns precision, recall, couch voxels in the mask, neck's error in slices, target voxels cut, flags, and share.

    The share is of the true target outside the body mask.
    """
    mask, box, neck, flags = found(phantom.image)
    true = np.count_nonzero(mask & phantom.body)
    target = phantom.truth | phantom.delineated
    return (
        true / np.count_nonzero(mask),
        true / np.count_nonzero(phantom.body),
        np.count_nonzero(mask & phantom.couch),
        neck - phantom.neck_slice,
        np.count_nonzero(target) - np.count_nonzero(target[box]),
        flags,
        np.count_nonzero(phantom.truth & ~mask) / max(1, np.count_nonzero(phantom.truth)),
    )


def report(name, rows):
    """Prints a group's line."""
    precision, recall, couch, neck, cut, flags, outside = zip(*rows, strict=True)
    near = np.mean(np.abs(neck) <= NECK_SLICES)
    print(
        f"{name:22} {len(rows):4} cases: precision {np.mean(precision):.4f} (least {min(precision):.4f}), "
        f"recall {np.mean(recall):.4f} (least {min(recall):.4f}), couch voxels {np.mean(couch):.0f} "
        f"(most {max(couch)}, none in {couch.count(0)}), neck within {NECK_SLICES} slices {near:.1%} "
        f"(largest {max(map(abs, neck))}), target cut in {np.count_nonzero(cut)}, "
        f"outside the mask at most {max(outside):.2%}, flags {dict(Counter(sum(flags, ())))}"
    )


def accuracy(num_phantoms, scale):
    """Draws the phantoms and prints a line for every institution, with and without contact, and for all."""
    groups = {}
    for number in range(num_phantoms):
        phantom = make_phantom("ABC"[number % 3], 1000 + number // 3, scale)
        contact = "touching" if phantom.info["couch_touches"] else "apart"
        groups.setdefault((phantom.institution, contact), []).append(row_of(phantom))
    for (institution, contact), rows in sorted(groups.items()):
        report(f"{institution}, {contact}", rows)
    report("all", [row for rows in groups.values() for row in rows])


def best_of(repeats, function, *arguments):
    """Returns the least processor time in seconds, which on one core is the wall time of a machine at rest."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds)


def times():
    """Prints the time of the whole step on a phantom of 512 x 512 x 130 of each institution."""
    for institution in "ABC":
        image = make_phantom(institution, 0).image
        depth = min(130, len(image.array))
        cropped = type(image)(
            np.ascontiguousarray(image.array[:depth]),
            type(image.geometry)((depth, 512, 512), image.geometry.spacing_mm),
        )
        print(f"{institution}, {depth} x 512 x 512: {best_of(7, found, cropped) * 1000:.0f} ms")


def real(folder):
    """Prints what is found on every CT series below `folder`, and the time it takes."""
    for uid, files in find_ct_series(folder).items():
        name = f"{files[0].relative_to(folder).parts[0]}, series ...{uid[-6:]}"
        try:
            volume = to_lps(read_ct_series(files).volume)
            mask, box, _, flags = found(volume)
        except ImageError as error:
            print(f"{name}: refused ({str(error)[:80]})")
            continue
        shape, spacing_mm = volume.array.shape, volume.geometry.spacing_mm
        widths = mask.any(axis=1).sum(axis=1)[mask.any(axis=(1, 2))] * spacing_mm[2]
        print(
            f"{name}: {shape} -> {tuple(part.stop - part.start for part in box)}, width {widths.min():.0f}-"
            f"{widths.max():.0f} mm, {np.count_nonzero(mask) * volume.geometry.voxel_ml / 1000:.1f} l, flags {flags}, "
            f"{best_of(2, found, volume) * 1000:.0f} ms"
        )


def main():
    """Prints all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--phantoms", type=int, default=200)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    cv2.setNumThreads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.phantoms:
        print(f"{arguments.phantoms} phantoms of scale {arguments.scale:g}")
        accuracy(arguments.phantoms, arguments.scale)
    times()
    if "FEDGTV_DATA" in os.environ:
        real(Path(os.environ["FEDGTV_DATA"]) / "dicom")


if __name__ == "__main__":
    main()
