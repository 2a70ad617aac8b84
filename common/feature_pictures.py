"""Feature maps as a picture: the axial plane of a patch, the image first, then the channels that vary most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.panels import TRUTH_COLOUR, Bar, draw_contour, frame, legend, panels, scale_bar, word
from common.pictures import GREY
from common.planes import PLANES, Array, Mask

NUM_CHANNELS = 5
"""[C] Of each row: so many panels and the image go across a page."""
PANEL_IN = 2.0
"""Most height of a panel: six of them stand side by side."""
COLOURS = "viridis"
SHOWN_PERCENT = (1.0, 99.0)
"""Ends of a channel's colours: instance norm leaves each its own range."""
AXIAL = PLANES[0]


@dataclass(frozen=True, eq=False)
class MapRow:
    """One network's maps at one place of it, in the axial plane through the patch's middle."""

    title: str
    image_hu: Array
    """(y, x)."""
    truth: Mask
    """(y, x) bool."""
    maps: NDArray[np.float32]
    """(c, y, x)."""


def features_figure(rows: Sequence[MapRow], spacing_mm: Sequence[float], heading: str) -> Any:
    """Returns a matplotlib Figure with a row of panels for each row of maps, each to its own channels' range.

    Args:
        rows: at least one; patches of different sizes are each shown whole, the largest sets the scale.
        spacing_mm: (z, y, x) of a voxel.
        heading: above all rows; must not name a patient.
    """
    num_channels = min(NUM_CHANNELS, max(len(row.maps) for row in rows))
    sizes_mm = [(n * mm for n, mm in zip(row.image_hu.shape, spacing_mm[1:], strict=True)) for row in rows]
    height_mm, width_mm = (max(sizes) for sizes in zip(*sizes_mm, strict=True))
    figure, drawn = panels(
        [(0, width_mm, height_mm, 0)] * (1 + num_channels), [row.title for row in rows], heading, PANEL_IN
    )
    for row, axes in zip(rows, drawn, strict=True):
        _draw_row(row, axes, spacing_mm, (0, width_mm, height_mm, 0))
    legend(figure, [("———  contour", TRUTH_COLOUR)], Bar(COLOURS, "response low", "high"))
    return figure


def strongest(maps: NDArray[np.float32], num: int) -> list[int]:
    """Returns the numbers of the channels (c, y, x) that vary most over the plane, those first."""
    order: list[int] = np.argsort(-maps.std(axis=(1, 2)), kind="stable").tolist()
    return order[:num]


def _draw_row(row: MapRow, axes: Sequence[Any], spacing_mm: Sequence[float], bounds: Any) -> None:
    height, width = row.image_hu.shape
    extent = (0.0, width * spacing_mm[2], height * spacing_mm[1], 0.0)
    axes[0].imshow(row.image_hu, **GREY, extent=extent, interpolation="bilinear")
    word(axes[0], "image", 0.015, 0.985, "left", "top")
    channels = strongest(row.maps, len(axes) - 1)
    for axis, number in zip(axes[1:], channels, strict=False):
        low, high = np.percentile(row.maps[number], SHOWN_PERCENT)
        axis.imshow(row.maps[number], cmap=COLOURS, vmin=low, vmax=max(high, low + 1e-6), extent=extent,
                    interpolation="nearest")  # fmt: skip
        word(axis, f"channel {number + 1}", 0.015, 0.985, "left", "top")
    for axis in axes[: 1 + len(channels)]:
        draw_contour(axis, row.truth, AXIAL, spacing_mm, TRUTH_COLOUR)
        frame(axis, bounds)
    for axis in axes[1 + len(channels) :]:
        axis.set_axis_off()
    scale_bar(axes[0])
