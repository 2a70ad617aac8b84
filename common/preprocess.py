"""From scan to network grid and back: turn to LPS, find the body, crop to the region of interest, resample.

Source: paper, section 2.C; what it leaves open is marked in `PreprocessConfig`.
Cropping comes first: it leaves a tenth of the voxels to resample. The record holds all that the way back needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.alignment import channel_onto, finite, label_inside
from common.body import BodyMask, body_mask
from common.errors import LabelError
from common.recipe import PreprocessConfig, RoiConfig
from common.region import Slices, region_of_interest
from common.resample import Float32, reached_spacing, resample_linear, resample_spline, target_shape
from common.statistics import AIR_HU
from common.volume import Geometry, Volume, from_lps, index_to_patient, lps_geometry, to_lps

LOWEST_HU = -1024.0
"""Vendors fill the corners outside the scan circle with -1024, -2000 or -3024: all become the first."""
LABEL_THRESHOLD = 0.5
IMAGE_INCOMPLETE = "image-incomplete"
FEET_FIRST = "feet-first"

Range = tuple[int, int]


@dataclass(frozen=True)
class PreprocessRecord:
    """How a case came onto the network's grid."""

    geometry: Geometry
    """Of the scan as it was given."""
    crop: tuple[Range, Range, Range]
    """Start and stop of the region of interest on the scan turned to LPS (z, y, x)."""
    resampled_shape: tuple[int, int, int]
    """Voxels (z, y, x) of the network's grid, which has the region's extent."""
    spacing_mm: tuple[float, float, float]
    """Spacing reached (z, y, x): near the target; the region's extent is a whole number of voxels."""
    overshoot_hu: float = 0.0
    """By how much the spline left the image's range before it was clipped."""
    flags: tuple[str, ...] = ()
    """`BodyMask.flags`, those of `neck_slice`, `feet-first` (the slices as given run from the head to the feet), and
    `image-incomplete` (the second image does not cover the region)."""

    @property
    def box(self) -> Slices:
        """The crop as slices."""
        return slice(*self.crop[0]), slice(*self.crop[1]), slice(*self.crop[2])

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PreprocessRecord":
        """Returns the record that `to_dict` wrote, also after a passage through JSON.

        Raises:
            KeyError, TypeError, ValueError: the data is no such record.
        """
        geometry = Geometry(**{key: tuple(value) for key, value in data["geometry"].items()})
        z, y, x = ((int(start), int(stop)) for start, stop in data["crop"])
        depth, height, width = (int(size) for size in data["resampled_shape"])
        spacing_z, spacing_y, spacing_x = (float(value) for value in data["spacing_mm"])
        return cls(
            geometry=geometry,
            crop=(z, y, x),
            resampled_shape=(depth, height, width),
            spacing_mm=(spacing_z, spacing_y, spacing_x),
            overshoot_hu=float(data["overshoot_hu"]),
            flags=tuple(str(flag) for flag in data["flags"]),
        )


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network's grid."""

    image: Float32
    """(C, z, y, x) HU."""
    body: NDArray[np.bool_]
    """(z, y, x)."""
    label: NDArray[np.bool_] | None
    """(z, y, x)."""
    record: PreprocessRecord


@dataclass(frozen=True, eq=False)
class Patient:
    """The patient in a scan, and what of the scan is kept."""

    lps: Volume
    """The scan turned to LPS."""
    body: BodyMask
    """On the grid of `lps`."""
    box: Slices
    """The region of interest there."""
    flags: tuple[str, ...]
    """`PreprocessRecord.flags`, but for `image-incomplete`."""


def find_patient(image: Volume, config: RoiConfig) -> Patient:
    """Returns where the patient lies in a scan in HU (ImageError: a value is not finite, or there is no body)."""
    lps = to_lps(finite(image, 0))
    body = body_mask(lps.array, lps.geometry.spacing_mm, config)
    box, flags = region_of_interest(body.mask, lps.geometry.spacing_mm, config)
    return Patient(lps, body, box, (*_orientation(image.geometry), *body.flags, *flags))


def prepare(images: Sequence[Volume], label: Volume | None, config: PreprocessConfig) -> PreparedCase:
    """Returns the case's region of interest on the target grid.

    Args:
        images: one channel each, in HU; the first makes the body mask and the grid, others are resampled onto it
            where theirs differs (they must share its frame of reference).
        label: the target, above zero inside; on the first image's grid, in any order of axes.
        config: target spacing and region of interest.

    Raises:
        ImageError: a value is not finite, there is no body, or a further image lies elsewhere.
        LabelError: the label has another grid, is cut by the region of interest, or is too small for the target grid.
    """
    return prepare_patient(find_patient(images[0], config.roi), images, label, config)


def prepare_patient(
    patient: Patient, images: Sequence[Volume], label: Volume | None, config: PreprocessConfig
) -> PreparedCase:
    """Returns what `prepare` does, of a patient that `find_patient` has found in the first image; raises as it does."""
    lps, body, box = patient.lps, patient.body, patient.box
    spacing_mm = lps.geometry.spacing_mm
    target = None if label is None else label_inside(label, lps.geometry, box)
    region = _cropped(lps, box)
    channels, flags = _channels(region, images[1:], ~body.mask[box], body.padding_hu)
    shape = _triple(target_shape(region.geometry.size, spacing_mm, config.spacing_mm))
    resampled, overshoot_hu = _resampled(channels, shape)
    record = PreprocessRecord(
        geometry=images[0].geometry,
        crop=((box[0].start, box[0].stop), (box[1].start, box[1].stop), (box[2].start, box[2].stop)),
        resampled_shape=shape,
        spacing_mm=_triple(reached_spacing(region.geometry.size, spacing_mm, shape)),
        overshoot_hu=overshoot_hu,
        flags=(*patient.flags, *flags),
    )
    resampled_body = resample_linear(body.mask[box], shape) >= LABEL_THRESHOLD
    return PreparedCase(resampled, resampled_body, None if target is None else _resampled_label(target, shape), record)


def restore(scores_zyx: NDArray[Any], record: PreprocessRecord) -> Float32:
    """Returns scores from the network's grid on the scan's original grid: linear, within 0..1, 0 outside the region.

    Raises:
        ValueError: the scores have another shape than the record's grid.
    """
    if scores_zyx.shape != record.resampled_shape:
        raise ValueError(f"scores have shape {scores_zyx.shape}; expected {record.resampled_shape} as in the record")
    size = tuple(stop - start for start, stop in record.crop)
    restored = np.zeros(lps_geometry(record.geometry).size, np.float32)
    restored[record.box] = np.clip(resample_linear(scores_zyx, size), 0.0, 1.0)
    return from_lps(restored, record.geometry)


def _channels(
    region: Volume, others: Sequence[Volume], outside: NDArray[np.bool_], padding_hu: float | None
) -> tuple[list[Float32], tuple[str, ...]]:
    """Returns the first image's region and the others on its grid, air where there is no data; and flags."""
    first = region.array.astype(np.float32)
    if padding_hu is not None:
        first[outside & (first == padding_hu)] = AIR_HU
    moved = [channel_onto(_clipped(finite(image, k)), region.geometry, k) for k, image in enumerate(others, 1)]
    flags = (IMAGE_INCOMPLETE,) if any(np.isnan(channel).any() for channel in moved) else ()
    filled = [np.nan_to_num(channel, nan=AIR_HU) for channel in moved]
    return [np.maximum(channel, np.float32(LOWEST_HU)) for channel in (first, *filled)], flags


def _clipped(image: Volume) -> Volume:
    """Returns the image without the vendors' fillings, beside which the spline would ring."""
    return Volume(np.maximum(image.array, image.array.dtype.type(LOWEST_HU)), image.geometry)


def _orientation(geometry: Geometry) -> tuple[str, ...]:
    """Returns the flag of a scan whose slices run downwards; a prone patient is told by the couch, not the header."""
    return (FEET_FIRST,) if geometry.direction[8] < 0 else ()


def _cropped(volume: Volume, box: Slices) -> Volume:
    """Returns the part of an LPS volume inside `box`."""
    array = volume.array[box]
    x, y, z = index_to_patient(volume.geometry, np.array([[part.start for part in box]]))[0].tolist()
    depth, height, width = array.shape
    geometry = Geometry((depth, height, width), volume.geometry.spacing_mm, (x, y, z), volume.geometry.direction)
    return Volume(array, geometry)


def _resampled(channels: Sequence[NDArray[Any]], shape: Sequence[int]) -> tuple[Float32, float]:
    """Returns the channels (C, z, y, x) on the new grid, each clipped to its range, and the largest overshoot in HU."""
    result, overshoot_hu = np.empty((len(channels), *shape), np.float32), 0.0
    for channel, output in zip(channels, result, strict=True):
        low, high = float(channel.min()), float(channel.max())
        resampled = resample_spline(channel, shape, clip=False)
        overshoot_hu = max(overshoot_hu, low - float(resampled.min()), float(resampled.max()) - high)
        np.clip(resampled, low, high, out=output)
    return result, overshoot_hu


def _resampled_label(mask: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    resampled: NDArray[np.bool_] = resample_linear(mask, shape) >= LABEL_THRESHOLD
    if mask.any() and not resampled.any():
        raise LabelError(
            f"label of {np.count_nonzero(mask)} voxels vanishes on the target grid; "
            "expected at least one voxel there; choose a finer spacing_mm or leave the case out"
        )
    return resampled


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    z, y, x = values
    return z, y, x
