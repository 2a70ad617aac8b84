"""What `segment` is given becomes scans: one, or many in nested and mixed folders."""

import numpy as np
import pytest

from client.scans import find_scans
from common.errors import ImageError
from common.volume import Geometry, Volume, write_nifti

AIR = np.full((2, 3, 4), -1000, np.int16)


@pytest.fixture
def nifti():
    def write(path, array=AIR):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(Volume(array, Geometry(array.shape, (1.0, 1.0, 1.0))), path)

    return write


def names(source):
    return [str(scan.name) for scan in find_scans(source)]


def test_series_and_niftis_anywhere_below(tmp_path, write_ct, tiny_hu, nifti):
    write_ct(tmp_path / "p1" / "CT", tiny_hu)
    write_ct(tmp_path / "p2", tiny_hu)
    nifti(tmp_path / "p3.nii.gz")
    nifti(tmp_path / "deep" / "p4.nii")
    (tmp_path / "notes.txt").write_text("x")
    assert names(tmp_path) == ["deep/p4", "p1/CT", "p2", "p3"]


def test_beside_a_case_folders_image_nothing_is_a_scan(tmp_path, nifti):
    for name in ("ct.nii.gz", "gtv.nii.gz", "truth.nii.gz"):
        nifti(tmp_path / "export" / "p1" / name)
    for name in ("image.nii.gz", "label.nii.gz"):
        nifti(tmp_path / "cases" / "A-0001" / name)
    found = find_scans(tmp_path)
    assert [(str(scan.name), scan.files[0].name) for scan in found] == [
        ("cases/A-0001", "image.nii.gz"),
        ("export/p1", "ct.nii.gz"),
    ]


@pytest.mark.parametrize(
    "label",
    [
        np.zeros((2, 3, 4), np.uint8),
        np.eye(3, 4, dtype=np.int16)[None].repeat(2, axis=0),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    ],
    ids=["empty", "binary", "many organs, as floats"],
)
def test_label_maps_are_no_scans(tmp_path, write_ct, tiny_hu, nifti, caplog, label):
    """A phantom's folder: its truth lies beside the CT's folder, and would fail a run in which all scans worked."""
    write_ct(tmp_path / "case-000" / "dicom", tiny_hu)
    nifti(tmp_path / "case-000" / "truth.nii.gz", label)
    assert names(tmp_path) == ["case-000/dicom"]
    told = "passed over as no CT: 1 label map (case-000/truth.nii.gz)"
    assert [record.getMessage() for record in caplog.records] == [told]


@pytest.mark.parametrize(
    "image", [np.arange(130, dtype=np.uint8).reshape(2, 5, 13), np.full((2, 3, 4), 0.5, np.float32)],
    ids=["MR in a byte", "probabilities"],
)  # fmt: skip
def test_what_is_neither_ct_nor_label_map_stays_a_scan_and_fails_by_name(tmp_path, nifti, image):
    nifti(tmp_path / "p1.nii.gz")
    nifti(tmp_path / "p2.nii.gz", image)
    (tmp_path / "p3.nii.gz").write_bytes((tmp_path / "p1.nii.gz").read_bytes()[:-20])
    assert names(tmp_path) == ["p1", "p2", "p3"]


def test_label_maps_alone_are_told_by_number_and_first_names(tmp_path, nifti):
    for number in range(5):
        nifti(tmp_path / f"p{number}.nii.gz", np.zeros((2, 3, 4), np.uint8))
    told = r"no CT series and no NIfTI image, but 5 label maps \(p0.nii.gz, .*, p2.nii.gz, \.\.\.\); export"
    with pytest.raises(ImageError, match=told):
        find_scans(tmp_path)


def test_two_series_of_one_folder_are_told_apart_and_keep_their_names(tmp_path, write_ct, tiny_hu):
    write_ct(tmp_path / "mixed" / "a", tiny_hu)
    write_ct(tmp_path / "mixed" / "b", tiny_hu)
    for folder in ("a", "b"):
        for path in sorted((tmp_path / "mixed" / folder).iterdir()):
            path.rename(tmp_path / "mixed" / f"{folder}-{path.name}")
        (tmp_path / "mixed" / folder).rmdir()
    found = names(tmp_path)
    assert len(set(found)) == 2
    assert all(name.startswith("mixed-") for name in found)
    assert names(tmp_path) == found


def test_earlier_results_are_no_scans(tmp_path, write_ct, tiny_hu, nifti):
    write_ct(tmp_path / "CT", tiny_hu)
    nifti(tmp_path / "out" / "p1" / "mask.nii.gz")
    assert names(tmp_path) == ["CT", "out/p1/mask"]
    (tmp_path / "out" / "p1" / "report.json").write_text("{}")
    assert names(tmp_path) == ["CT"]


def test_a_file_is_one_scan_by_its_own_name(tmp_path, nifti):
    nifti(tmp_path / "patient.nii.gz")
    (scan,) = find_scans(tmp_path / "patient.nii.gz")
    assert (str(scan.name), scan.is_dicom) == ("patient", False)
    (tmp_path / "slice.dcm").write_text("x")
    with pytest.raises(ImageError, match=r"slice\.dcm: is a single file, .*; give the folder"):
        find_scans(tmp_path / "slice.dcm")


def test_a_folder_of_one_series_counts_by_its_own_name(tmp_path, write_ct, tiny_hu):
    write_ct(tmp_path / "CT", tiny_hu)
    (scan,) = find_scans(tmp_path / "CT")
    series, volume = scan.read()
    assert (str(scan.name), len(series.files), volume.array.shape) == ("CT", 16, (16, 24, 24))


@pytest.mark.parametrize("cut", [0, 1, 15])
def test_a_damaged_file_beside_slices_fails_their_scan_alone(tmp_path, write_ct, tiny_hu, cut):
    """At an end of the series its loss would leave no gap: the rest would pass for the whole scan."""
    write_ct(tmp_path / "p1", tiny_hu)
    write_ct(tmp_path / "p2", tiny_hu)
    one = find_scans(tmp_path)[0]
    whole = one.content()
    one.files[cut].write_bytes(one.files[cut].read_bytes()[:300])
    damaged, other = find_scans(tmp_path)
    told = rf"^p1: 1 file beside its 15 good slices cannot be read, such as .*{one.files[cut].name}"
    with pytest.raises(ImageError, match=told):
        damaged.read()
    assert damaged.content() != whole
    assert other.read()[1].array.shape == (16, 24, 24)
    one.files[cut].unlink()
    assert find_scans(tmp_path)[0].content() != damaged.content()


def test_a_damaged_file_apart_is_told_and_fails_nothing(tmp_path, write_ct, tiny_hu, caplog):
    write_ct(tmp_path / "p1" / "CT", tiny_hu)
    (tmp_path / "p1" / "RS").mkdir()
    one = next((tmp_path / "p1" / "CT").iterdir())
    (tmp_path / "p1" / "RS" / "rs.dcm").write_bytes(one.read_bytes()[:300])
    (scan,) = find_scans(tmp_path)
    assert scan.read()[1].array.shape == (16, 24, 24)
    assert "rs.dcm: DICOM without SOPClassUID; it was cut short" in caplog.text


def test_nothing_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no CT series and no NIfTI image; export"):
        find_scans(tmp_path)
    with pytest.raises(ImageError, match="does not exist"):
        find_scans(tmp_path / "none")


def test_content_is_that_of_the_bytes(tmp_path, nifti):
    nifti(tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii").read_bytes())
    one, same = find_scans(tmp_path)
    assert one.content() == same.content()
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii").read_bytes() + b"\0")
    assert find_scans(tmp_path / "b.nii")[0].content() != one.content()


def test_a_folder_of_mr_or_pet_has_a_line(tmp_path, write_ct, tiny_hu, nifti, caplog):
    """A batch of a patient whose MR lies beside his CT, and of one who has no CT."""

    def as_class(uid):
        return lambda dataset, _: setattr(dataset, "SOPClassUID", uid)

    write_ct(tmp_path / "p1" / "CT", tiny_hu)
    write_ct(tmp_path / "p1" / "MR", tiny_hu, change=as_class("1.2.840.10008.5.1.4.1.1.4"))
    write_ct(tmp_path / "p2", tiny_hu, change=as_class("1.2.840.10008.5.1.4.1.1.128"))
    assert names(tmp_path) == ["p1/CT"]
    told = "2 folders of MR or PET (p1/MR, p2)"
    assert [record.getMessage() for record in caplog.records] == [f"passed over as no CT: {told}"]
    nifti(tmp_path / "p2" / "gtv.nii.gz", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(
        ImageError, match=r"no NIfTI image, but 1 label map \(gtv.nii.gz\) and 1 folder of MR or PET \(p2\); "
    ):
        find_scans(tmp_path / "p2")
