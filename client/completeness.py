"""Whether all images are there that a structure set was drawn on: a lost end slice shortens a CT and nothing else."""

from collections.abc import Collection, Sequence
from pathlib import Path

from client.pairing import Pairing
from common.errors import LabelError
from common.rtstruct import Structure, contour_images

WHOLE = "copy damaged files again, or export the series whole"


def lost_images(pairings: Sequence[Pairing], num_slices: int, num_unread: int) -> tuple[str, ...]:
    """Returns a warning if a CT is, or may be, shorter than the one that was contoured.

    Args:
        pairings: of its structure sets.
        num_slices: that can be read.
        num_unread: files in its folder that cannot be read.
    """
    most = max(pairings, key=lambda pairing: pairing.num_lost)
    if most.num_lost:
        return (
            f"its structure set lists {most.num_there + most.num_lost} images of this CT, and {most.num_there} of them "
            f"can be read; expected all; the CT is shorter than it was, though not at the target; if that matters, "
            f"{WHOLE}",
        )
    if num_unread and not any(pairing.num_there for pairing in pairings):
        files = f"{num_unread} file{'' if num_unread == 1 else 's'}"
        return (
            f"{files} beside its {num_slices} slices cannot be read, and its structure set does not list its images; "
            f"the first or last slices may be missing; {WHOLE}, or move what is no slice elsewhere",
        )
    return ()


def check_drawn_on(path: Path, target: Structure, sop_uids: Collection[str]) -> None:
    """Raises LabelError if contours of the target refer to images that are missing, and others to images of the CT.

    Where none of the references leads to the CT they are wrong, as often after anonymisation, and say nothing.
    """
    images = contour_images(path, target.number)
    num_there = len(images & set(sop_uids))
    if 0 < num_there < len(images):
        raise LabelError(
            f"{path.name} draws {target.name!r} on {len(images)} images, and the {len(sop_uids)} of this CT that can "
            f"be read hold {num_there} of them; expected all; {WHOLE}"
        )
