"""Overlays: the contour's pixels lie where the mask's border is, planes keep the patient's proportions."""

import io

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from common.errors import ImageError
from common.panels import PREDICTION_COLOUR, TRUTH_COLOUR, as_jpeg
from common.pictures import Row, overlay_figure, overlay_png, rows_figure
from common.planes import PLANES, target_centre

SHAPE, SPACING_MM = (20, 40, 30), (3.0, 1.0, 2.0)


def box(z=(8, 13), y=(10, 21), x=(5, 16)):
    mask = np.zeros(SHAPE, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def air():
    return np.full(SHAPE, -1000.0, np.float32)


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def near(picture, colour, tolerance=0.12):
    return np.abs(picture - matplotlib.colors.to_rgb(colour)).max(axis=2) < tolerance


def panel(figure, number):
    """Rows and columns of a panel in the picture, counted from its top left."""
    height = figure.bbox.height
    area = figure.axes[number].get_window_extent()
    return slice(round(height - area.y1), round(height - area.y0)), slice(round(area.x0), round(area.x1))


def test_contour_pixels_lie_on_the_border_of_the_mask():
    figure = overlay_figure(air(), SPACING_MM, box(), None, "case")
    picture = pixels(overlay_png(air(), SPACING_MM, box(), None, "case"))
    edges_mm = {
        0: ((10, 32), (10, 21)),
        1: ((10, 32), (24, 39)),
        2: ((10, 21), (24, 39)),
    }  # columns, rows of each plane
    for number, (columns_mm, rows_mm) in edges_mm.items():
        rows, columns = panel(figure, number)
        drawn_rows, drawn_columns = np.nonzero(near(picture[rows, columns], TRUTH_COLOUR))
        to_pixels = figure.axes[number].transData.transform
        corners = to_pixels([(columns_mm[0], rows_mm[0]), (columns_mm[1], rows_mm[1])])
        expected_columns = sorted(corners[:, 0] - columns.start)
        expected_rows = sorted(figure.bbox.height - corners[:, 1] - rows.start)
        assert drawn_columns.min() == pytest.approx(expected_columns[0], abs=2.5)
        assert drawn_columns.max() == pytest.approx(expected_columns[1], abs=2.5)
        assert drawn_rows.min() == pytest.approx(expected_rows[0], abs=2.5)
        assert drawn_rows.max() == pytest.approx(expected_rows[1], abs=2.5)


def test_axial_panel_has_the_posterior_side_down_and_the_patients_left_to_the_right():
    image = air()
    image[:, 30:, 20:] = 240.0  # posterior left: white
    figure = overlay_figure(image, SPACING_MM, box(), None, "")
    rows, columns = panel(figure, 0)
    axial = pixels(overlay_png(image, SPACING_MM, box(), None, ""))[rows, columns].mean(axis=2)
    middle_row, middle_column = axial.shape[0] // 2, axial.shape[1] // 2
    assert axial[middle_row:, middle_column:].mean() > 10 * axial[:middle_row, :middle_column].mean()


def test_coronal_panel_has_the_head_up():
    image = air()
    image[15:] = 240.0
    figure = overlay_figure(image, SPACING_MM, box(), None, "")
    rows, columns = panel(figure, 1)
    coronal = pixels(overlay_png(image, SPACING_MM, box(), None, ""))[rows, columns].mean(axis=2)
    half = coronal.shape[0] // 2
    assert coronal[:half].mean() > 5 * coronal[half:].mean()


def test_planes_share_one_scale_in_mm():
    figure = overlay_figure(air(), SPACING_MM, box(), None, "")
    sizes = [(axis.get_window_extent().width, axis.get_window_extent().height) for axis in figure.axes]
    pixels_per_mm = sizes[0][0] / 60.0  # 30 voxels of 2 mm
    expected_mm = [(60, 40), (60, 60), (40, 60)]
    for (width, height), (width_mm, height_mm) in zip(sizes, expected_mm, strict=True):
        assert width / pixels_per_mm == pytest.approx(width_mm)
        assert height / pixels_per_mm == pytest.approx(height_mm)


def test_planes_are_named_and_a_bar_tells_the_scale():
    wide = np.full((20, 40, 60), -1000.0, np.float32)  # 120 mm across
    figure = overlay_figure(wide, SPACING_MM, None, None, "")
    for axis, plane in zip(figure.axes, PLANES, strict=True):
        words = [text.get_text() for text in axis.texts]
        assert words[:5] == [*plane.sides, plane.name]
    (bar,) = figure.axes[0].lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(50)
    assert not overlay_figure(air(), SPACING_MM, None, None, "").axes[0].lines  # 60 mm: no room


def test_a_contour_is_seen_on_bone_as_in_air():
    """White bone, a light line: the black rim stands between them."""
    picture = pixels(overlay_png(np.full(SHAPE, 1000.0, np.float32), SPACING_MM, box(), None, ""))
    drawn = near(picture, TRUTH_COLOUR)
    rim = near(picture, "black", 0.3)
    rows, columns = panel(overlay_figure(air(), SPACING_MM, box(), None, ""), 0)
    middle = (rows.start + rows.stop) // 2
    line = np.flatnonzero(drawn[middle, columns])
    assert rim[middle, columns][line[0] - 4 : line[0]].any()


def test_window_is_level_40_width_400():
    limits = [axis.images[0].get_clim() for axis in overlay_figure(air(), SPACING_MM, box(), None, "").axes]
    assert limits == [(-160.0, 240.0)] * 3


def test_two_masks_have_two_colours_and_an_absent_one_has_none():
    both = pixels(overlay_png(air(), SPACING_MM, box(), box(x=(12, 22)), ""))
    alone = overlay_figure(air(), SPACING_MM, box(), None, "")
    assert near(both, TRUTH_COLOUR).any()
    assert near(both, PREDICTION_COLOUR).any()
    assert [len(axis.collections) for axis in alone.axes] == [1, 1, 1]
    assert "prediction" not in " ".join(text.get_text() for text in alone.texts)


def test_empty_masks_draw_nothing_and_are_named():
    figure = overlay_figure(air(), SPACING_MM, np.zeros(SHAPE, bool), np.zeros(SHAPE, bool), "")
    words = " ".join(text.get_text() for text in figure.texts)
    assert "contour (empty)" in words
    assert "prediction (empty)" in words
    assert not any(axis.collections for axis in figure.axes)


def test_mask_at_the_border_has_a_closed_contour():
    figure = overlay_figure(air(), SPACING_MM, np.ones(SHAPE, bool), None, "")
    (path,) = figure.axes[0].collections[0].get_paths()
    np.testing.assert_allclose(path.vertices[0], path.vertices[-1])


def test_centre_is_the_truths_then_the_predictions_then_the_images():
    assert target_centre(SHAPE, box(), box(z=(0, 2))) == (10, 15, 10)
    assert target_centre(SHAPE, np.zeros(SHAPE, bool), box(z=(0, 3))) == (1, 15, 10)
    assert target_centre(SHAPE, None, None) == (10, 20, 15)


def test_every_plane_meets_a_target_with_gaps():
    """Drawn on slices 8, 10, 12, 14, with its centroid on 11; then two targets, with the centroid between them."""
    every_second = box(z=(8, 15))
    every_second[9::2] = False
    apart = box(x=(2, 5)) | box(x=(20, 24))
    assert target_centre(SHAPE, every_second, None) == (10, 15, 10)
    for mask in (every_second, apart):
        axes = overlay_figure(air(), SPACING_MM, mask, None, "").axes
        assert [len(axis.collections) for axis in axes] == [1, 1, 1]


def test_large_image_is_cropped_round_the_target_and_a_large_target_widens_the_view():
    shape, spacing_mm = (10, 60, 60), (3.0, 10.0, 10.0)
    small, large = np.zeros(shape, bool), np.zeros(shape, bool)
    small[5, 30, 30] = True
    large[5, 10:51, 30] = True
    heights = [
        np.ptp(overlay_figure(np.zeros(shape), spacing_mm, mask, None, "").axes[0].get_ylim())
        for mask in (small, large)
    ]
    assert heights == pytest.approx([190.0, 450.0])


def test_title_is_text_not_mathematics_and_no_metadata_is_written():
    png = overlay_png(air(), SPACING_MM, box(), None, "cost $5_^ and $")
    assert b"matplotlib" not in png
    assert png == overlay_png(air(), SPACING_MM, box(), None, "cost $5_^ and $")


@pytest.mark.parametrize(
    ("image", "spacing_mm", "truth", "message"),
    [
        (np.zeros((1, 4, 4, 4)), SPACING_MM, None, r"shape \(1, 4, 4, 4\).*one channel"),
        (np.zeros(SHAPE), (3.0, 0.0, 1.0), None, "spacing_mm.*three positive"),
        (np.zeros(SHAPE), SPACING_MM, np.zeros((1, 2, 3), bool), r"contour has shape \(1, 2, 3\).*resample"),
    ],
)
def test_wrong_arrays_are_named(image, spacing_mm, truth, message):
    with pytest.raises(ImageError, match=message):
        overlay_png(image, spacing_mm, truth, None, "")


def test_every_plane_names_its_four_sides():
    assert [plane.sides for plane in PLANES] == ["RLAP", "RLHF", "APHF"]


def test_a_jpeg_is_the_same_picture_in_fewer_bytes():
    noisy = air() + np.random.default_rng(0).normal(1000, 60, SHAPE)
    drawn = noisy, SPACING_MM, box(), None, "A-0001"
    png, jpeg = overlay_png(*drawn), as_jpeg(overlay_figure(*drawn))
    exact, close = pixels(png), matplotlib.image.imread(io.BytesIO(jpeg), format="jpeg")[..., :3] / 255
    assert close.shape == exact.shape
    assert np.abs(close - exact).mean() < 0.02
    assert len(jpeg) < len(png) / 2
    assert as_jpeg(overlay_figure(*drawn)) == jpeg


def test_the_whole_planes_are_shown_on_demand():
    """An image of 400 x 300 x 200 mm round a small target: 180 mm of it, or all."""
    image, mask = np.full((80, 60, 100), -1000.0, np.float32), np.zeros((80, 60, 100), bool)
    mask[40:42, 30:32, 50:52] = True
    near_target, whole = (overlay_figure(image, (5.0, 5.0, 2.0), mask, None, "", each) for each in (False, True))
    heights = [[abs(np.ptp(axis.get_ylim())) for axis in figure.axes] for figure in (near_target, whole)]
    assert heights == [pytest.approx([185, 185, 185]), pytest.approx([300, 400, 400])]


def test_each_prediction_has_its_row_below_the_heading():
    rows = [Row("one", box()), Row("two", box(x=(12, 22))), Row("none", np.zeros(SHAPE, bool))]
    figure = rows_figure(air(), SPACING_MM, box(), rows, "case 1")
    assert len(figure.axes) == 3 * len(PLANES)
    assert [len(axis.collections) for axis in figure.axes] == [2, 2, 2, 2, 2, 1, 1, 1, 1]  # the second ends before it
    places = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert places["case 1"] > places["one"] > places["two"] > places["none (empty)"]


def test_probabilities_lie_over_the_image_near_the_target():
    scores = np.where(box(), 0.8, 0.0)
    figure = rows_figure(air(), SPACING_MM, box(), [Row("m", box(), scores)])
    shown = [axis.images[1].get_array() for axis in figure.axes[:3]]
    assert all(plane.max() == pytest.approx(0.8) for plane in shown)
    assert [int(plane.count()) for plane in shown] == [11 * 11, 5 * 11, 5 * 11]  # bare outside the box
    assert "probability 0" in " ".join(text.get_text() for text in figure.texts)


def test_a_picture_of_many_models_passes_a_site_s_border():
    figure = rows_figure(np.zeros((60, 200, 200)), (3.0, 1.0, 1.0), None, [Row(str(k)) for k in range(12)], "all")
    width, height = figure.get_size_inches() * figure.dpi
    assert width * height < 4_000_000
