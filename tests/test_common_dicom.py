import numpy as np
import pytest

from common.dicom import find_ct_series, read_ct_series, scan_folder
from common.errors import ImageError

HU = np.arange(4 * 5 * 6).reshape(4, 5, 6) * 10 - 1000


def test_a_series_is_read_in_z_order_with_hu_and_place(tmp_path, write_ct):
    slices = write_ct(tmp_path, HU, spacing_mm=(3.0, 0.75, 0.5))
    series = read_ct_series(tmp_path)
    np.testing.assert_array_equal(series.volume.array, HU)
    assert series.volume.array.dtype == np.int16
    geometry = series.volume.geometry
    assert geometry.spacing_mm == (3.0, 0.75, 0.5)
    assert geometry.origin_mm == (-10.0, -20.0, 30.0)
    assert series.sop_uids == tuple(str(item.SOPInstanceUID) for item in slices)
    assert [path.name for path in series.files] == ["ct-004.dcm", "ct-003.dcm", "ct-002.dcm", "ct-001.dcm"]
    assert series.frame_uid == slices[0].FrameOfReferenceUID


def test_nested_folders_with_other_files_and_modalities(tmp_path, write_ct, write_structures):
    slices = write_ct(tmp_path / "a" / "b", HU)
    write_ct(tmp_path / "a", HU, Manufacturer="Other")
    write_structures(tmp_path / "rt" / "s.dcm", slices, {"GTV": []})
    write_ct(tmp_path / "scout", HU[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "empty.dcm").touch()
    found = scan_folder(tmp_path)
    assert sorted(map(len, found.ct_series.values())) == [4, 4]
    assert [path.name for path in found.structure_sets] == ["s.dcm"]
    assert set(find_ct_series(tmp_path)) == set(found.ct_series)
    with pytest.raises(ImageError, match="2 CT series"):
        read_ct_series(tmp_path)


def test_a_folder_without_ct_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(ImageError, match="no CT slice among 1 file;"):
        find_ct_series(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        find_ct_series(tmp_path / "missing")


def set_tag(keyword, value, at=2):
    def change(dataset, index):
        if index == at:
            setattr(dataset, keyword, value)

    return change


def without(keyword):
    def change(dataset, index):
        if index == 2:
            delattr(dataset, keyword)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, index: index != 2, "6.00 mm to the next slice"),
        (set_tag("ImagePositionPatient", [-10, -20, 33]), "same position"),
        (set_tag("ImagePositionPatient", [-10, -20, 36.5]), "expected 3.00 mm"),
        (set_tag("ImagePositionPatient", [-10, -17, 36]), "gantry tilt"),
        (set_tag("PixelSpacing", [1.0, 1.1]), "PixelSpacing is"),
        (set_tag("ImageOrientationPatient", [0, 1, 0, 1, 0, 0]), "ImageOrientationPatient is"),
        (set_tag("Rows", 4), "Rows is 4"),
        (without("RescaleSlope"), "no RescaleSlope"),
        (without("RescaleIntercept"), "no RescaleIntercept"),
        (without("ImagePositionPatient"), "no ImagePositionPatient"),
        (set_tag("NumberOfFrames", 2), "multi-frame"),
        (set_tag("SamplesPerPixel", 3), "3 samples"),
        (lambda _, index: index == 0, "only slice"),
        (lambda dataset, _: setattr(dataset, "ImageOrientationPatient", [1, 0, 0, 0.5, 1, 0]), "perpendicular"),
    ],
)
def test_what_makes_no_volume_is_refused_in_one_line(tmp_path, write_ct, change, words):
    write_ct(tmp_path, np.concatenate([HU, HU]), change=change)
    with pytest.raises(ImageError, match=words) as caught:
        read_ct_series(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Secret" not in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path, write_ct):
    write_ct(tmp_path, np.zeros((3, 64, 64)), change=set_tag("PixelData", bytes(4000)))
    with pytest.raises(ImageError, match=r"ct-001.dcm: 4000 bytes of pixels; expected 8192"):
        read_ct_series(tmp_path)


def test_positions_rounded_to_a_tenth_do_not_drift(tmp_path, write_ct):
    def rounded(dataset, index):
        dataset.ImagePositionPatient = [-10, -20, round(index * 3.27, 1)]

    write_ct(tmp_path, np.zeros((11, 3, 3)), change=rounded)
    assert read_ct_series(tmp_path).volume.geometry.spacing_mm[0] == pytest.approx(3.27)


def test_padding_becomes_air_and_fractions_stay(tmp_path, write_ct):
    def fractional(dataset, _):
        dataset.PixelRepresentation, dataset.RescaleIntercept, dataset.RescaleSlope = 1, 0, 0.5
        dataset.PixelData = np.array([[-4000, 3, 4]] * 2, "<i2").tobytes()

    write_ct(tmp_path, np.zeros((2, 2, 3)), change=fractional)
    array = read_ct_series(tmp_path).volume.array
    assert array.dtype == np.float32
    assert array[0].tolist() == [[-1024, 1.5, 2.0]] * 2


def test_slices_stacked_towards_the_feet_are_sorted_along_their_normal(tmp_path, write_ct):
    def prone(dataset, index):
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [0, 0, 3.0 * index]

    write_ct(tmp_path, HU, change=prone)
    volume = read_ct_series(tmp_path).volume
    assert volume.geometry.direction == (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)
    np.testing.assert_array_equal(volume.array, HU[::-1])


@pytest.mark.real_data
def test_jpeg_2000_from_a_planning_system(real_data):
    volume = read_ct_series(real_data / "dicom" / "breast_eclipse").volume
    assert volume.geometry.size == (98, 512, 512)
    assert volume.geometry.spacing_mm == pytest.approx((3.0, 1.074219, 1.074219))
    assert volume.array.min() == -1024
    assert -1000 < np.median(volume.array[49, 100:110, 250:260]) < 100


@pytest.mark.slow  # GDCM takes long to give up
@pytest.mark.real_data
def test_a_compressed_file_cut_short_is_refused(real_data, tmp_path):
    (series,) = find_ct_series(real_data / "dicom" / "breast_eclipse").values()
    for number, path in enumerate(series[:2]):
        (tmp_path / f"{number}.dcm").write_bytes(path.read_bytes()[: path.stat().st_size // (1 + (number == 1))])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_ct_series(tmp_path)


@pytest.mark.real_data
def test_an_oblique_series_with_oblong_pixels(real_data):
    geometry = read_ct_series(real_data / "dicom" / "rtutils_malformed" / "oriented_data").volume.geometry
    cosines = np.array(geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-12)
    assert np.linalg.det(cosines) == pytest.approx(1)
    assert geometry.spacing_mm == pytest.approx((4.5, 3.5, 2.5), abs=1e-4)


def test_a_file_that_is_no_dicom_is_refused_by_name(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ImageError, match=r"model\.safetensors: is no DICOM file; expected a CT slice"):
        read_ct_series(file)
