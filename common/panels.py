"""A black figure of panels in rows, all to one scale in mm, with what stands between them: titles, legend, scale.

A bare Figure and the Agg canvas: no pyplot, no display and no shared state, so that a site can draw while it trains.
The file carries no metadata.
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

from common.planes import Mask, Plane

TRUTH_COLOUR, PREDICTION_COLOUR = "#56B4E9", "#E69F00"
"""Okabe and Ito's sky blue and orange (jfly.uni-koeln.de/color): told apart with any colour vision."""
SCALES_MM = {50.0: 110.0, 20.0: 60.0}
"""Length of the scale bar, and the width that a panel has at least for it."""
BEHIND = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.0}
"""What letters stand on, for bone is as white as they are."""
LINE_PT = 1.5
"""Of a contour; a black rim half as wide on either side sets it off from bone."""
JPEG_QUALITY = 85
PANEL_HEIGHT_IN, MARGIN_IN, TITLE_IN, LEGEND_IN, DPI = 3.2, 0.08, 0.32, 0.3, 110
ALL_ROWS_IN = 15.0
"""Of the panels of all rows together: a picture of many models stays below the pixels that a site lets pass."""
LEAST_WIDTH_IN = 4.5
BAR_IN = (0.8, 0.12)
"""Width and height of a colour scale in the legend."""

Extent = tuple[float, float, float, float]
"""Left, right, bottom and top in mm, as `imshow` wants them."""


@dataclass(frozen=True)
class Bar:
    """A colour scale: its colour map, and the words at its ends."""

    colours: str
    low: str
    high: str


def as_png(figure: Any) -> bytes:
    """Returns a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def as_jpeg(figure: Any) -> bytes:
    """Returns a figure as JPEG, a third of the PNG's size, for a page of hundreds."""
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY, "optimize": True})
    return stream.getvalue()


def panels(
    extents: Sequence[Extent], titles: Sequence[str], heading: str = "", most_in: float = PANEL_HEIGHT_IN
) -> tuple[Any, list[list[Any]]]:
    """Returns a black figure and its axes by row: one row below each title, in it one panel for each extent.

    All are to one scale; the tallest panel fills its row's height, at most `most_in`. Texts are shown as they are:
    no mathematics.
    """
    high_in = min(most_in, ALL_ROWS_IN / len(titles))
    sizes_mm = [(right - left, abs(top - bottom)) for left, right, bottom, top in extents]
    inches_per_mm = high_in / max(height for _, height in sizes_mm)
    row_in = sum(width for width, _ in sizes_mm) * inches_per_mm + MARGIN_IN * (len(sizes_mm) - 1)
    width_in = max(LEAST_WIDTH_IN, row_in + 2 * MARGIN_IN)
    figure = Figure(
        figsize=(width_in, len(titles) * (high_in + TITLE_IN) + LEGEND_IN + (TITLE_IN if heading else 0)),
        dpi=DPI, facecolor="black",
    )  # fmt: skip
    FigureCanvasAgg(figure)
    sizes_in = [(width * inches_per_mm, height * inches_per_mm) for width, height in sizes_mm]
    rows = []
    for number, title in enumerate(titles):
        bottom_in = LEGEND_IN + (len(titles) - 1 - number) * (high_in + TITLE_IN)
        rows.append(_row(figure, (width_in - row_in) / 2, bottom_in + high_in / 2, sizes_in))
        _strip(figure, bottom_in + high_in + TITLE_IN / 2, title, 10)
    if heading:
        _strip(figure, figure.get_figheight() - TITLE_IN / 2, heading, 11)
    return figure, rows


def _row(figure: Any, left_in: float, middle_in: float, sizes_in: Sequence[tuple[float, float]]) -> list[Any]:
    width_in, height_in = figure.get_size_inches()
    axes = []
    for wide_in, high_in in sizes_in:
        place = left_in / width_in, (middle_in - high_in / 2) / height_in, wide_in / width_in, high_in / height_in
        axes.append(figure.add_axes(place))
        left_in += wide_in + MARGIN_IN
    return axes


def _strip(figure: Any, middle_in: float, text: str, size: float) -> None:
    figure.text(0.5, middle_in / figure.get_figheight(), text, color="white", ha="center", va="center",
                fontsize=size, parse_math=False)  # fmt: skip


def frame(axis: Any, extent: Extent) -> None:
    """Bounds a panel by its extent and a thin line."""
    axis.set_xlim(extent[0], extent[1])
    axis.set_ylim(extent[2], extent[3])
    axis.set_axis_off()
    axis.add_patch(Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor="0.4", linewidth=0.8,
                             clip_on=False))  # fmt: skip


def draw_contour(
    axis: Any, mask: Mask, plane: Plane, spacing_mm: Sequence[float], colour: str, style: str = "solid"
) -> None:
    """Draws a plane's mask: the outline half-way between voxels inside and outside; it closes at the image's border."""
    if not mask.any():
        return
    row, column = plane.axes
    y_mm = (np.arange(-1, mask.shape[0] + 1) + 0.5) * spacing_mm[row]
    x_mm = (np.arange(-1, mask.shape[1] + 1) + 0.5) * spacing_mm[column]
    padded = np.pad(mask, 1).astype(np.float32)
    drawn = axis.contour(x_mm, y_mm, padded, levels=[0.5], colors=[colour], linewidths=LINE_PT, linestyles=style)
    drawn.set_path_effects([withStroke(linewidth=2 * LINE_PT, foreground="black")])


def word(axis: Any, text: str, x: float, y: float, horizontal: str, vertical: str) -> None:
    """Writes on a panel, at a place in 0..1."""
    axis.text(x, y, text, transform=axis.transAxes, color="0.9", fontsize=8, ha=horizontal, va=vertical,
              bbox=BEHIND)  # fmt: skip


def scale_bar(axis: Any) -> None:
    """A bar at the lower right, of the longest of SCALES_MM that leaves room; all panels have one scale."""
    left, right = axis.get_xlim()
    fitting = [length_mm for length_mm, least_mm in SCALES_MM.items() if right - left > least_mm]
    if not fitting:
        return
    length_mm = max(fitting)
    ends = right - 0.02 * (right - left) - length_mm, right - 0.02 * (right - left)
    across = blended_transform_factory(axis.transData, axis.transAxes)
    axis.plot(ends, (0.03, 0.03), transform=across, color="white", linewidth=1.5, solid_capstyle="butt",
              path_effects=[withStroke(linewidth=3, foreground="black")])  # fmt: skip
    axis.text(sum(ends) / 2, 0.05, f"{length_mm:g} mm", transform=across, color="0.9", fontsize=8, ha="center",
              va="bottom", bbox=BEHIND)  # fmt: skip


def legend(figure: Any, entries: Sequence[tuple[str, str]], bar: Bar | None = None) -> None:
    """Writes (text, colour) side by side in the strip below the panels, then the bar of a colour scale."""
    num_places = len(entries) + (bar is not None)
    y = 0.5 * LEGEND_IN / figure.get_figheight()
    for place, (text, colour) in enumerate(entries):
        figure.text((place + 0.5) / num_places, y, text, color=colour, fontsize=9, ha="center", va="center")
    if bar is not None:
        _draw_bar(figure, (num_places - 0.5) / num_places, y, bar)


def _draw_bar(figure: Any, x: float, y: float, bar: Bar) -> None:
    width, height = BAR_IN[0] / figure.get_figwidth(), BAR_IN[1] / figure.get_figheight()
    axis = figure.add_axes((x - width / 2, y - height / 2, width, height))
    axis.imshow(np.linspace(0, 1, 256)[None], cmap=bar.colours, aspect="auto")
    axis.set_axis_off()
    for text, side, alignment in ((f"{bar.low}  ", -1, "right"), (f"  {bar.high}", 1, "left")):
        figure.text(x + side * width / 2, y, text, color="0.9", fontsize=9, ha=alignment, va="center")
