"""One case as a picture: three planes through the target's centre, with the true and the predicted contour.

Drawn with a bare Figure and the Agg canvas: no pyplot, no display and no shared state, so that a site can draw while
it trains. The file carries no metadata.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from common.bounding import Box, bounding_box
from common.errors import ImageError

LEVEL_HU, WIDTH_HU = 40.0, 400.0
"""Soft-tissue window."""
TRUTH_COLOUR, PREDICTION_COLOUR = "#56B4E9", "#E69F00"
"""Okabe and Ito's sky blue and orange (jfly.uni-koeln.de/color): told apart with any colour vision."""
FIELD_MM = 180.0
"""[C] Side of the view round the target: 2-3 times the extent of the paper's tumours; a larger target widens it."""

SCALE_MM = 50.0
LINE_PT = 1.5
"""Of a contour; a black rim half as wide on either side sets it off from bone."""
JPEG_QUALITY = 85
PANEL_HEIGHT_IN, MARGIN_IN, TITLE_IN, LEGEND_IN, DPI = 3.2, 0.08, 0.32, 0.3, 110

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Plane:
    """One view: which axis it is cut across, and what its four sides are on an LPS grid."""

    name: str
    axis: int
    head_up: bool
    sides: str
    """Letters at left, right, top and bottom."""


PLANES = (
    Plane("axial", 0, False, "RLAP"),
    Plane("coronal", 1, True, "RLHF"),
    Plane("sagittal", 2, True, "APHF"),
)


def overlay_png(
    image_hu_zyx: Array, spacing_mm: Sequence[float], truth: Mask | None, prediction: Mask | None, title: str
) -> bytes:
    """Returns a PNG of the case; see `overlay_figure`."""
    figure = overlay_figure(image_hu_zyx, spacing_mm, truth, prediction, title)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def as_jpeg(figure: Any) -> bytes:
    """Returns an `overlay_figure` as JPEG, a third of the PNG's size, for a page of hundreds."""
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY, "optimize": True})
    return stream.getvalue()


def overlay_figure(
    image_hu_zyx: Array,
    spacing_mm: Sequence[float],
    truth: Mask | None,
    prediction: Mask | None,
    title: str,
    whole: bool = False,
) -> Any:
    """Returns a matplotlib Figure with the axial, coronal and sagittal plane side by side, to one scale in mm.

    The planes meet near the centroid of `truth`; where that is None or empty, of `prediction`; else at the middle.

    Args:
        image_hu_zyx: (z, y, x) CT in HU on an LPS grid: z to the head, y to the back, x to the patient's left.
        spacing_mm: (z, y, x) voxel size in mm.
        truth: (z, y, x) bool, or None.
        prediction: (z, y, x) bool, or None.
        title: shown as it is; must not name a patient.
        whole: shows the whole of each plane, not the field round the target alone.

    Raises:
        ImageError: the image is not three-dimensional, a mask has another shape, or a spacing is not positive.
    """
    masks = {"contour": truth, "prediction": prediction}
    _check(image_hu_zyx, spacing_mm, masks)
    centre = target_centre(image_hu_zyx.shape, truth, prediction)
    given = [mask for mask in masks.values() if mask is not None]
    window = _whole(image_hu_zyx.shape) if whole else _field(image_hu_zyx.shape, spacing_mm, centre, given)
    figure, axes = _panels([_extent(plane, window, spacing_mm) for plane in PLANES])
    for plane, axis in zip(PLANES, axes, strict=True):
        _draw_plane(axis, plane, window, centre, image_hu_zyx, spacing_mm, truth, prediction)
    _scale_bar(axes[0])
    _legend(figure, masks)
    figure.text(0.5, 1 - 0.5 * TITLE_IN / figure.get_figheight(), title, color="white", ha="center", va="center",
                fontsize=10, parse_math=False)  # fmt: skip
    return figure


def target_centre(shape: Sequence[int], truth: Mask | None, prediction: Mask | None) -> tuple[int, int, int]:
    """Returns the voxel (z, y, x) that the three planes go through, the image's middle where there is no target.

    Along each axis it is the plane nearest to the target's centroid of those that meet the target.
    """
    for mask in (truth, prediction):
        if mask is not None and mask.any():
            box = bounding_box(mask)
            z, y, x = (_nearest(index) + part.start for index, part in zip(np.nonzero(mask[box]), box, strict=True))
            return z, y, x
    return shape[0] // 2, shape[1] // 2, shape[2] // 2


def _nearest(indices: NDArray[np.intp]) -> int:
    """The one nearest to their mean: with skipped slices, or two targets, the mean itself may be none of them."""
    return int(indices[np.abs(indices - indices.mean()).argmin()])


def _check(image: Array, spacing_mm: Sequence[float], masks: dict[str, Mask | None]) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise ImageError(f"picture: the image has shape {image.shape}; expected a filled (z, y, x); pass one channel")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ImageError(f"picture: spacing_mm is {tuple(spacing_mm)}; expected three positive numbers (z, y, x)")
    for name, mask in masks.items():
        if mask is not None and mask.shape != image.shape:
            raise ImageError(
                f"picture: the {name} has shape {mask.shape}; expected the image's {image.shape}; resample it first"
            )


def _field(shape: Sequence[int], spacing_mm: Sequence[float], centre: Sequence[int], masks: list[Mask]) -> Box:
    """The part of the image to show: FIELD_MM round the centre, more where a mask reaches further, within the image."""
    window = []
    boxes = [bounding_box(mask) for mask in masks if mask.any()]
    for axis in range(3):
        half = max(1, round(FIELD_MM / spacing_mm[axis] / 2))
        low, high = centre[axis] - half, centre[axis] + half + 1
        low = min([low, *(box[axis].start - 2 for box in boxes)])
        high = max([high, *(box[axis].stop + 2 for box in boxes)])
        window.append(slice(max(0, low), min(shape[axis], high)))
    return window[0], window[1], window[2]


def _whole(shape: Sequence[int]) -> Box:
    depth, height, width = shape
    return slice(0, depth), slice(0, height), slice(0, width)


def _extent(plane: Plane, window: Box, spacing_mm: Sequence[float]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the shown plane in mm from the volume's corner, as `imshow` wants them."""
    row, column = (axis for axis in range(3) if axis != plane.axis)
    top, bottom = window[row].start * spacing_mm[row], window[row].stop * spacing_mm[row]
    if plane.head_up:
        top, bottom = bottom, top
    return window[column].start * spacing_mm[column], window[column].stop * spacing_mm[column], bottom, top


def _panels(extents: list[tuple[float, float, float, float]]) -> tuple[Any, list[Any]]:
    """A black figure with one axis for each plane, all to one scale: the tallest fills the panels' height."""
    sizes_mm = [(right - left, abs(top - bottom)) for left, right, bottom, top in extents]
    inches_per_mm = PANEL_HEIGHT_IN / max(height for _, height in sizes_mm)
    widths_in = [width * inches_per_mm for width, _ in sizes_mm]
    width_in = max(4.5, sum(widths_in) + MARGIN_IN * (len(widths_in) + 1))
    height_in = PANEL_HEIGHT_IN + TITLE_IN + LEGEND_IN
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes, left_in = [], (width_in - sum(widths_in) - MARGIN_IN * (len(widths_in) - 1)) / 2
    for panel_in, (_, height_mm) in zip(widths_in, sizes_mm, strict=True):
        tall_in = height_mm * inches_per_mm
        bottom_in = LEGEND_IN + (PANEL_HEIGHT_IN - tall_in) / 2
        axes.append(figure.add_axes((left_in / width_in, bottom_in / height_in, panel_in / width_in,
                                     tall_in / height_in)))  # fmt: skip
        left_in += panel_in + MARGIN_IN
    return figure, axes


def _draw_plane(
    axis: Any,
    plane: Plane,
    window: Box,
    centre: Sequence[int],
    image: Array,
    spacing_mm: Sequence[float],
    truth: Mask | None,
    prediction: Mask | None,
) -> None:
    extent = _extent(plane, window, spacing_mm)
    grey = image[window].take(centre[plane.axis] - window[plane.axis].start, axis=plane.axis)
    axis.imshow(grey, cmap="gray", vmin=LEVEL_HU - WIDTH_HU / 2, vmax=LEVEL_HU + WIDTH_HU / 2, extent=extent,
                origin="lower" if plane.head_up else "upper", interpolation="bilinear", aspect="equal")  # fmt: skip
    for mask, colour, style in ((truth, TRUTH_COLOUR, "solid"), (prediction, PREDICTION_COLOUR, "dashed")):
        if mask is not None:
            _draw_contour(axis, np.take(mask, centre[plane.axis], axis=plane.axis), plane, spacing_mm, colour, style)
    axis.set_xlim(extent[0], extent[1])
    axis.set_ylim(extent[2], extent[3])
    axis.set_axis_off()
    axis.add_patch(Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor="0.4", linewidth=0.8,
                             clip_on=False))  # fmt: skip
    _sides(axis, plane)


def _draw_contour(axis: Any, mask: Mask, plane: Plane, spacing_mm: Sequence[float], colour: str, style: str) -> None:
    """The outline half-way between voxels inside and outside; padded, so that it closes at the image's border."""
    if not mask.any():
        return
    row, column = (other for other in range(3) if other != plane.axis)
    y_mm = (np.arange(-1, mask.shape[0] + 1) + 0.5) * spacing_mm[row]
    x_mm = (np.arange(-1, mask.shape[1] + 1) + 0.5) * spacing_mm[column]
    padded = np.pad(mask, 1).astype(np.float32)
    drawn = axis.contour(x_mm, y_mm, padded, levels=[0.5], colors=[colour], linewidths=LINE_PT, linestyles=style)
    drawn.set_path_effects([withStroke(linewidth=2 * LINE_PT, foreground="black")])


def _sides(axis: Any, plane: Plane) -> None:
    """Letters at the four sides, and the plane's name in a corner."""
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"),
              (0.015, 0.985, "left", "top"))  # fmt: skip
    for word, (x, y, horizontal, vertical) in zip((*plane.sides, plane.name), places, strict=True):
        axis.text(x, y, word, transform=axis.transAxes, color="0.9", fontsize=8, ha=horizontal, va=vertical,
                  bbox={"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.0})  # fmt: skip


def _scale_bar(axis: Any) -> None:
    """A bar of SCALE_MM at the lower right, where the panel is wide enough; all panels have one scale."""
    left, right = axis.get_xlim()
    if right - left < 1.5 * SCALE_MM:
        return
    ends = right - 0.02 * (right - left) - SCALE_MM, right - 0.02 * (right - left)
    across = blended_transform_factory(axis.transData, axis.transAxes)
    axis.plot(ends, (0.03, 0.03), transform=across, color="white", linewidth=1.5, solid_capstyle="butt")
    axis.text(sum(ends) / 2, 0.04, f"{SCALE_MM:g} mm", transform=across, color="0.9", fontsize=8, ha="center",
              va="bottom")  # fmt: skip


def _legend(figure: Any, masks: dict[str, Mask | None]) -> None:
    """Names the lines below the planes that were given, and says where one is empty."""
    lines = zip(masks.items(), (TRUTH_COLOUR, PREDICTION_COLOUR), ("———", "– – –"), strict=True)
    given = [(name, mask, colour, line) for (name, mask), colour, line in lines if mask is not None]
    for place, (name, mask, colour, line) in enumerate(given):
        absent = "" if mask.any() else " (empty)"
        x, y = (place + 0.5) / len(given), 0.5 * LEGEND_IN / figure.get_figheight()
        figure.text(x, y, f"{line}  {name}{absent}", color=colour, fontsize=9, ha="center", va="center")
