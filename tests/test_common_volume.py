import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ImageError
from common.volume import (
    Geometry,
    Volume,
    from_lps,
    from_sitk,
    index_to_patient,
    lps_geometry,
    patient_to_index,
    read_nifti,
    to_lps,
    to_sitk,
    write_nifti,
)


@st.composite
def geometries(draw):
    """Grids with any permutation and flip of the axes, tilted by up to 30 degrees."""
    matrix = np.eye(3)[:, list(draw(st.permutations(range(3))))] * [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    angle, axis = np.deg2rad(draw(st.floats(-30, 30))), draw(st.integers(0, 2))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    tilt = np.eye(3)
    tilt[[first, first, second, second], [first, second, first, second]] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    return Geometry(
        size=draw(st.tuples(*[st.integers(1, 5)] * 3)),
        spacing_mm=draw(st.tuples(*[st.floats(0.5, 5)] * 3)),
        origin_mm=draw(st.tuples(*[st.floats(-300, 300)] * 3)),
        direction=tuple(float(value) for value in (tilt @ matrix).ravel()),
    )


def numbered(geometry):
    return Volume(np.arange(np.prod(geometry.size), dtype=np.int16).reshape(geometry.size), geometry)


@given(geometries())
def test_lps_and_back_is_exact_and_every_voxel_keeps_its_place(geometry):
    volume = numbered(geometry)
    turned = to_lps(volume)
    np.testing.assert_array_equal(from_lps(turned.array, geometry), volume.array)
    before = index_to_patient(geometry, np.argwhere(volume.array >= 0))
    after = index_to_patient(turned.geometry, np.argwhere(turned.array >= 0))
    order = np.argsort(turned.array.ravel())
    np.testing.assert_allclose(after[order], before, atol=1e-9)


@given(geometries())
def test_lps_axes_point_to_head_back_and_left(geometry):
    turned = lps_geometry(geometry)
    cosines = np.diag(np.array(turned.direction).reshape(3, 3))
    assert (cosines > 0.8).all()
    assert lps_geometry(turned) == turned


@given(geometries())
def test_points_agree_with_simpleitk(geometry):
    image = to_sitk(numbered(geometry))
    index = np.array([[0.5, 1.25, -2.0]])
    point = index_to_patient(geometry, index)
    expected = image.TransformContinuousIndexToPhysicalPoint([-2.0, 1.25, 0.5])
    np.testing.assert_allclose(point[0], expected, atol=1e-9)
    np.testing.assert_allclose(patient_to_index(geometry, point), index, atol=1e-9)


def test_a_scan_stored_feet_last_and_sideways_is_turned_by_hand():
    geometry = Geometry((2, 1, 3), (3.0, 1.0, 2.0), (10.0, 0.0, 5.0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    turned = to_lps(Volume(np.array([[[1, 2, 3]], [[4, 5, 6]]]), geometry))
    assert turned.array.tolist() == [[[6, 5, 4]], [[3, 2, 1]]]
    assert turned.geometry == Geometry((2, 1, 3), (3.0, 1.0, 2.0), (6.0, 0.0, 2.0))


def test_nifti_keeps_values_type_and_place(tmp_path):
    angle = np.deg2rad(10)
    tilt = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1)
    volume = numbered(Geometry((2, 3, 4), (3.0, 0.5, 0.75), (-100.0, 50.0, 7.5), tuple(map(float, tilt))))
    write_nifti(volume, tmp_path / "a.nii.gz")
    read = read_nifti(tmp_path / "a.nii.gz")
    assert read.array.dtype == np.int16
    np.testing.assert_array_equal(read.array, volume.array)
    assert read.geometry.matches(volume.geometry, 1e-3)
    assert (tmp_path / "a.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
    write_nifti(volume, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").array, volume.array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "a.nii.gz"]


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    volume = numbered(Geometry((2, 3, 4), (3.0, 0.5, 0.75)))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(volume, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_masks_are_written_as_bytes(tmp_path):
    write_nifti(Volume(np.ones((1, 2, 3), bool), Geometry((1, 2, 3), (1.0, 1.0, 1.0))), tmp_path / "m.nii.gz")
    assert read_nifti(tmp_path / "m.nii.gz").array.dtype == np.uint8


def test_an_array_read_outlives_its_image():
    array = from_sitk(sitk.Image([64, 64, 64], sitk.sitkInt16) + 7).array
    assert (array == 7).all()


@pytest.mark.parametrize("change", [{"size": (2, 3, 5)}, {"origin_mm": (0.1, 0, 0)}, {"spacing_mm": (1.0, 1.0, 1.01)}])
def test_a_moved_grid_does_not_match(change):
    geometry = Geometry((2, 3, 4), (1.0, 1.0, 1.0))
    assert geometry.matches(Geometry((2, 3, 4), (1.0, 1.0, 1.0), (0.001, 0, 0)))
    assert not geometry.matches(Geometry(**({"size": (2, 3, 4), "spacing_mm": (1.0, 1.0, 1.0)} | change)))


def test_voxel_volume_is_in_millilitres():
    assert Geometry((1, 1, 1), (10.0, 10.0, 10.0)).voxel_ml == 1.0


def test_what_is_not_one_volume_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    sitk.WriteImage(sitk.Image([2, 2, 2, 2], sitk.sitkInt16), str(tmp_path / "series.nii.gz"))
    for name, words in {
        "none.nii.gz": "no such file",
        "text.nii.gz": "not readable",
        "series.nii.gz": "2 x 2 x 2 x 2",
    }.items():
        with pytest.raises(ImageError, match=words) as caught:
            read_nifti(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_array_off_its_grid_is_refused():
    with pytest.raises(ImageError, match="shape"):
        Volume(np.zeros((1, 2, 3)), Geometry((3, 2, 1), (1.0, 1.0, 1.0)))
