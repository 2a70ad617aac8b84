"""Whether all images are there that a structure set was drawn on: a lost end slice shortens a CT and nothing else."""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median

from client.pairing import Pairing
from common.dicom import CtSeries
from common.errors import LabelError
from common.rtstruct import Structure, contour_images
from common.text import counted
from common.volume import patient_to_index

MOST_SLICES_OFF = 0.75
"""Half a slice is usual where contours lie between planes."""
WHOLE = "copy damaged files again, or export the series whole"


def lost_images(pairings: Sequence[Pairing], num_unread: int) -> tuple[str, ...]:
    """Returns a warning if a CT is, or may be, shorter than the one that was contoured, or its contours be old.

    A structure set may list a part of its CT alone, so that a lost end slice need not be missed.

    Args:
        pairings: of its structure sets.
        num_unread: files in its folder, or a structure set's, that cannot be read.
    """
    most = max(pairings, key=lambda pairing: pairing.num_lost)
    told = []
    if most.num_lost:
        told.append(
            f"its structure set lists {most.num_there + most.num_lost} images of this CT, and {most.num_there} of them "
            "can be read: the CT is shorter than it was, though not at the target"
        )
    if num_unread:
        told.append(
            f"{counted(num_unread, 'file')} beside its slices or structure set cannot be read: the first or last "
            "slices, or a newer structure set, may be missing"
        )
    remedy = f"{WHOLE}, or move elsewhere what is neither" if num_unread else f"if that matters, {WHOLE}"
    return (f"{', and '.join(told)}; expected all; {remedy}",) if told else ()


def check_where_drawn(path: Path, target: Structure, series: CtSeries) -> None:
    """Raises LabelError if most contours lie elsewhere than the images that they name: one of the two was moved.

    A contour between two slices may name either.
    """
    number = {uid: index for index, uid in enumerate(series.sop_uids)}
    off = [
        float(patient_to_index(series.volume.geometry, points)[:, 0].mean()) - number[uid]
        for points, images in zip(target.contours, target.images, strict=False)
        for uid in images & number.keys()
        if len(images) == 1
    ]
    num_off = sum(abs(each) > MOST_SLICES_OFF for each in off)
    if 2 * num_off > len(off):
        raise LabelError(
            f"{path.name} draws {target.name!r} {median(map(abs, off)):.1f} slices from the images that its contours "
            f"name ({num_off} of {len(off)}); expected on them; CT or structure set was moved: export both anew"
        )


def check_drawn_on(path: Path, target: Structure, sop_uids: Collection[str]) -> None:
    """Raises LabelError if contours of the target refer to images that are missing, and others to images of the CT.

    Where none of the references leads to the CT they are wrong, as often after anonymisation, and say nothing.
    """
    images = contour_images(path, target.number)
    num_there = len(images & set(sop_uids))
    if 0 < num_there < len(images):
        raise LabelError(
            f"{path.name} draws {target.name!r} on {counted(len(images), 'image')}, and the {len(sop_uids)} of this CT "
            f"that can be read hold {num_there} of them; expected all; {WHOLE}"
        )
