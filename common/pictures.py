"""One case as a picture: three planes through the target's centre, with the true and the predicted contour.

A row of planes for each prediction; with a probability map over the image where it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.bounding import Box
from common.errors import ImageError
from common.panels import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Bar,
    as_png,
    draw_contour,
    frame,
    legend,
    panels,
    scale_bar,
    word,
)
from common.planes import PLANES, Array, Mask, Plane, field, target_centre, whole_box

LEVEL_HU, WIDTH_HU = 40.0, 400.0
"""Soft-tissue window."""
GREY: dict[str, Any] = {"cmap": "gray", "vmin": LEVEL_HU - WIDTH_HU / 2, "vmax": LEVEL_HU + WIDTH_HU / 2}
SCORE_COLOURS, SCORE_ALPHA, LEAST_SCORE = "inferno", 0.7, 0.05
"""Of a probability map over the image, which is left bare below the last."""
BOUNDARY_MM, BOUNDARY_MARGIN_MM = 60.0, 12.0
"""[C] Least side of the view of probabilities, and what is shown of it round the target."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prediction: three planes in a row, below their title."""

    title: str
    """Shown as it is; must not name a patient."""
    prediction: Mask | None = None
    """(z, y, x) bool."""
    scores: Array | None = None
    """(z, y, x) in 0..1, drawn over the image."""


def overlay_png(
    image_hu_zyx: Array, spacing_mm: Sequence[float], truth: Mask | None, prediction: Mask | None, title: str
) -> bytes:
    """Returns a PNG of the case; see `overlay_figure`."""
    return as_png(overlay_figure(image_hu_zyx, spacing_mm, truth, prediction, title))


def overlay_figure(
    image_hu_zyx: Array,
    spacing_mm: Sequence[float],
    truth: Mask | None,
    prediction: Mask | None,
    title: str,
    whole: bool = False,
) -> Any:
    """Returns the Figure of one prediction; see `rows_figure`.

    `whole` shows the whole of each plane, not the field round the target alone.
    """
    return rows_figure(image_hu_zyx, spacing_mm, truth, [Row(title, prediction)], whole=whole)


def rows_figure(
    image_hu_zyx: Array,
    spacing_mm: Sequence[float],
    truth: Mask | None,
    rows: Sequence[Row],
    heading: str = "",
    whole: bool = False,
) -> Any:
    """Returns a matplotlib Figure with the axial, coronal and sagittal plane of each row, all to one scale in mm.

    The planes meet near the centroid of `truth`; where that is None or empty, of the first prediction; else at the
    middle. With scores the view is nearer, for they are about the target's boundary.

    Args:
        image_hu_zyx: (z, y, x) CT in HU on an LPS grid: z to the head, y to the back, x to the patient's left.
        spacing_mm: (z, y, x) voxel size in mm.
        truth: (z, y, x) bool, or None.
        rows: at least one; all have scores, or none has.
        heading: above all rows, shown as it is; empty: none. Must not name a patient.
        whole: shows the whole of each plane.

    Raises:
        ImageError: the image is not three-dimensional, an array has another shape, or a spacing is not positive.
    """
    _check(image_hu_zyx, spacing_mm, truth, rows)
    centre = target_centre(image_hu_zyx.shape, truth, rows[0].prediction)
    shape = image_hu_zyx.shape
    window = whole_box(shape) if whole else _window(shape, spacing_mm, centre, truth, rows)
    extents = [plane.extent(window, spacing_mm) for plane in PLANES]
    figure, drawn = panels(extents, [_title(row, len(rows)) for row in rows], heading)
    for row, axes in zip(rows, drawn, strict=True):
        for plane, axis in zip(PLANES, axes, strict=True):
            _draw_plane(axis, plane, window, centre, image_hu_zyx, spacing_mm, truth, row)
        scale_bar(axes[0])
    legend(figure, _entries(truth, rows), None if rows[0].scores is None else Bar(SCORE_COLOURS, "probability 0", "1"))
    return figure


def _title(row: Row, num_rows: int) -> str:
    """Of several rows each says whether its prediction is empty: the legend speaks for all."""
    is_empty = num_rows > 1 and row.prediction is not None and not row.prediction.any()
    return row.title + (" (empty)" if is_empty else "")


def _window(
    shape: Sequence[int], spacing_mm: Sequence[float], centre: Sequence[int], truth: Mask | None, rows: Sequence[Row]
) -> Box:
    predictions = [row.prediction for row in rows if row.prediction is not None]
    if rows[0].scores is None:
        return field(shape, spacing_mm, centre, [*predictions, *([] if truth is None else [truth])])
    target = [truth] if truth is not None and truth.any() else predictions[:1]
    return field(shape, spacing_mm, centre, target, BOUNDARY_MM, BOUNDARY_MARGIN_MM)


def _check(image: Array, spacing_mm: Sequence[float], truth: Mask | None, rows: Sequence[Row]) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise ImageError(f"picture: the image has shape {image.shape}; expected a filled (z, y, x); pass one channel")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ImageError(f"picture: spacing_mm is {tuple(spacing_mm)}; expected three positive numbers (z, y, x)")
    arrays: list[tuple[str, Array | None]] = [("contour", truth)]
    arrays += [each for row in rows for each in (("prediction", row.prediction), ("probability map", row.scores))]
    for name, array in arrays:
        if array is not None and array.shape != image.shape:
            raise ImageError(
                f"picture: the {name} has shape {array.shape}; expected the image's {image.shape}; resample it first"
            )


def _draw_plane(
    axis: Any,
    plane: Plane,
    window: Box,
    centre: Sequence[int],
    image: Array,
    spacing_mm: Sequence[float],
    truth: Mask | None,
    row: Row,
) -> None:
    extent = plane.extent(window, spacing_mm)
    shown: dict[str, Any] = {"extent": extent, "origin": "lower" if plane.head_up else "upper", "aspect": "equal"}
    axis.imshow(plane.cut(image, centre, window), **GREY, interpolation="bilinear", **shown)
    if row.scores is not None:
        scores = plane.cut(row.scores, centre, window).astype(np.float32)
        axis.imshow(np.ma.masked_less(scores, LEAST_SCORE), cmap=SCORE_COLOURS, vmin=0, vmax=1, alpha=SCORE_ALPHA,
                    interpolation="nearest", **shown)  # fmt: skip
    for mask, colour, style in ((truth, TRUTH_COLOUR, "solid"), (row.prediction, PREDICTION_COLOUR, "dashed")):
        if mask is not None:
            draw_contour(axis, np.take(mask, centre[plane.axis], axis=plane.axis), plane, spacing_mm, colour, style)
    frame(axis, extent)
    _name_sides(axis, plane)


def _name_sides(axis: Any, plane: Plane) -> None:
    """Letters at the four sides, and the plane's name in a corner."""
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"),
              (0.015, 0.985, "left", "top"))  # fmt: skip
    for text, place in zip((*plane.sides, plane.name), places, strict=True):
        word(axis, text, *place)


def _entries(truth: Mask | None, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Names the lines that were given, and says where all of a kind are empty."""
    predictions = [row.prediction for row in rows if row.prediction is not None]
    lines = (("———  contour", TRUTH_COLOUR, [] if truth is None else [truth]),
             ("– – –  prediction", PREDICTION_COLOUR, predictions))  # fmt: skip
    return [
        (name + ("" if any(mask.any() for mask in masks) else " (empty)"), colour)
        for name, colour, masks in lines
        if masks
    ]
