import copy
import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from client.import_table import summary
from client.ingest import import_folder
from client.pseudonyms import Pseudonyms
from common.dataset import read_index
from common.errors import ImageError, InputError, WorkError
from common.file_tree import DENIED
from common.rtstruct_writer import MANUFACTURER
from common.site_config import IngestConfig
from common.volume import Geometry, Volume, read_nifti, write_nifti

CONFIG = IngestConfig()
HU = np.arange(4 * 8 * 9).reshape(4, 8, 9) - 100
GRID = Geometry((4, 8, 9), (3.0, 1.0, 1.0), (-10.0, -20.0, 30.0))
TARGET = np.array([[-8.5, -18.5, 33], [-5.5, -18.5, 33], [-5.5, -16.5, 33], [-8.5, -16.5, 33]])  # 2 x 3 pixels, slice 1
UP = np.array([0, 0, 3])


@pytest.fixture
def export(tmp_path, write_ct, write_structures):
    """A function that writes a patient's CT and RTSTRUCT; keywords as of `write_structures`, `ct` for its tags."""

    def write(name, structures=None, ct=None, hu=HU, **references):
        folder = tmp_path / "export" / name
        slices = write_ct(folder / "dicom", hu, **({"PatientID": f"secret-{name}"} | (ct or {})))
        write_structures(folder / "dicom" / "rt.dcm", slices, structures or {"GTVnx": [TARGET]}, **references)
        return slices

    return write


@pytest.fixture
def run(tmp_path):
    """Imports the export; of whatever is refused or warned of, a line names the case, the reason and a remedy."""

    def run(config=CONFIG, **more):
        report = import_folder(tmp_path / "export", tmp_path / "cases", config, "A", **more)
        for line in (*(": ".join(pair) for pair in report.refused), *report.warnings):
            case, _, rest = line.partition(": ")
            reason, _, remedy = rest.rpartition("; ")
            assert (tmp_path / "export" / case.partition(" (")[0]).exists(), line
            assert reason, line
            assert remedy, line
            assert "\n" not in line
        return report

    return run


def write_case(folder, array=HU, label=None, geometry=GRID, label_geometry=None):
    folder.mkdir(parents=True)
    write_nifti(Volume(array.astype(np.float32), geometry), folder / "ct.nii.gz")
    label = (array == array.max()).astype(np.uint8) if label is None else label
    write_nifti(Volume(label, label_geometry or geometry), folder / "gtv.nii.gz")


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dicom_export_becomes_pseudonymous_cases(tmp_path, export, run):
    export("p1")
    export("p2", ct={"Manufacturer": "", "ConvolutionKernel": ["I30f", "3"]})
    seen = []
    report = run(progress=lambda done, total, name: seen.append((done, total, name)))
    assert report.imported == ("A-0001", "A-0002")
    assert (report.skipped, report.refused, report.warnings) == ((), (), ())
    assert seen == [(0, 2, "p1/dicom"), (1, 2, "p2/dicom"), (2, 2, "")]
    first, second = read_index(tmp_path / "cases")
    assert (first.case_id, first.patient_id) == ("A-0001", "A-0001")
    assert first.info == {"spacing_mm": [3.0, 1.0, 1.0], "size": [4, 8, 9], "manufacturer": "Siemens", "kernel": "B30"}
    assert second.info == {"spacing_mm": [3.0, 1.0, 1.0], "size": [4, 8, 9], "kernel": "I30f/3"}
    image = read_nifti(tmp_path / "cases" / first.images[0])
    np.testing.assert_array_equal(image.array, HU)
    assert image.array.dtype == np.int16
    assert image.geometry.matches(GRID)
    label = read_nifti(tmp_path / "cases" / first.label).array
    assert label.sum() == 6
    assert label[1, 2:4, 2:5].all()


def test_no_identity_leaves_the_pseudonyms_file(tmp_path, export, run):
    slices = export("p1")
    run()
    cases = tmp_path / "cases"
    assert files_below(cases) == ["A-0001/image.nii.gz", "A-0001/label.nii.gz", "cases.json", "pseudonyms.json"]
    assert (cases / "pseudonyms.json").stat().st_mode & 0o777 == 0o600
    assert "secret-p1" in (cases / "pseudonyms.json").read_text()
    index = (cases / "cases.json").read_text()
    assert not any(word in index for word in ("secret", "Secret", "p1", str(slices[0].SeriesInstanceUID)))


def test_nobody_else_may_read_what_was_imported(tmp_path, export, run):
    export("p1")
    write_nifti(Volume(np.ones((4, 8, 9), np.uint8), GRID), tmp_path / "export" / "p1" / "truth.nii.gz")
    before = os.umask(0o022)
    try:
        run()
    finally:
        os.umask(before)
    made = [tmp_path / "cases", *(tmp_path / "cases").rglob("*")]
    assert len(made) == 7
    assert [path for path in made if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)] == []


def test_a_second_run_imports_only_what_is_new_or_changed(tmp_path, export, run, write_structures):
    slices = export("p1")
    export("p3")
    assert run().imported == ("A-0001", "A-0002")
    export("p2")
    report = run()
    assert (report.imported, report.skipped) == (("A-0003",), ("A-0001", "A-0002"))
    write_structures(tmp_path / "export" / "p1" / "dicom" / "rt.dcm", slices, {"GTV-T": [TARGET, TARGET + UP]})
    report = run()
    assert (report.imported, report.skipped) == (("A-0001",), ("A-0003", "A-0002"))
    assert read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz").array.sum() == 12


def test_a_configuration_that_changes_nothing_of_a_case_imports_nothing_again(export, run):
    export("p1", {"GTV-T": [TARGET], "Node": [TARGET + UP]})
    export("p2", {"GTVnx": [TARGET]})
    run()
    same = {"structures": ("^tumou?r$", *CONFIG.structures), "image_name": "x.nii", "label_name": "y.nii"}
    for config in (IngestConfig(**same), IngestConfig(structures=("^gtv",)), CONFIG):
        report = run(config)
        assert (report.imported, report.skipped, report.refused) == ((), ("A-0001", "A-0002"), ())


def test_patterns_that_lead_to_another_target_import_it_again_and_no_other(tmp_path, export, run):
    export("p1", {"GTV-T": [TARGET], "Node": [TARGET + UP]})
    export("p2")
    run()
    config = IngestConfig(structures=("^node", "^gtv"))
    assert run(config, dry_run=True).count("changed") == 1
    report = run(config)
    assert (report.imported, report.skipped) == (("A-0001",), ("A-0002",))
    label = read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz").array
    assert [np.flatnonzero(label.any(axis=(1, 2))).tolist(), label.sum()] == [[2], 6]
    assert run(config).skipped == ("A-0001", "A-0002")


def test_patterns_that_find_no_target_refuse_what_was_imported_before(export, run):
    export("p1", {"GTV-T": [TARGET]})
    run()
    for _ in range(2):
        ((_, reason),) = run(IngestConfig(structures=("^node",))).refused
        assert reason.endswith("; case A-0001 of an earlier import stays in use as it was")
    assert run().skipped == ("A-0001",)


def test_what_was_found_is_not_looked_for_again(export, run, monkeypatch):
    export("p1")
    config = IngestConfig(structures=("^gtv",))
    run()
    run(config)
    monkeypatch.setattr("client.dicom_case.read_rtstruct", lambda _: pytest.fail("was read again"))
    assert run(config).skipped == ("A-0001",)


def test_filling_gaps_and_a_contrast_ct_that_is_asked_for_import_again(export, run):
    export("p1")
    run()
    assert run(IngestConfig(interpolate_gaps=True)).imported == ("A-0001",)
    config = IngestConfig(interpolate_gaps=True, contrast=("contrast",))
    report = run(config)
    assert (report.imported, len(report.warnings)) == (("A-0001",), 1)
    assert (run(config).imported, run(config).warnings) == ((), ())


def test_what_was_lost_is_imported_again_under_its_name(tmp_path, export, run):
    export("p1")
    export("p2")
    run()
    (tmp_path / "cases" / "A-0002" / "label.nii.gz").unlink()
    assert run().imported == ("A-0002",)
    (tmp_path / "cases" / "cases.json").unlink()
    assert run().imported == ("A-0001", "A-0002")


def test_series_of_one_patient_share_the_patient(tmp_path, export, run):
    export("p1", ct={"PatientID": "same"})
    export("p1-again", ct={"PatientID": "same"})
    assert run().imported == ("A-0001", "A-0001-2")
    assert {entry.patient_id for entry in read_index(tmp_path / "cases")} == {"A-0001"}


def test_many_scans_of_one_patient_id_are_asked_about_when_they_are_new(tmp_path, export, run):
    for name in ("p1", "p2", "p3"):
        export(name, ct={"PatientID": "ANON"})
    export("p4", {"Cord": [TARGET]}, ct={"PatientID": "ANON"})  # refused: becomes nobody's case
    export("q")
    told = [report.warnings for report in (run(dry_run=True), run())]
    assert told[0] == told[1]
    (line,) = told[1]
    assert line.startswith(
        "p1/dicom: has the PatientID of 2 CTs in another frame of reference or of an earlier import, p2/dicom, "
        "p3/dicom: one patient or many?"
    )
    assert "PatientID each" in line
    assert run().warnings == ()
    shutil.rmtree(tmp_path / "export")
    export("p5", ct={"PatientID": "ANON"})
    (line,) = run().warnings
    assert "p5/dicom: has the PatientID of 3 CTs" in line
    assert "A-0001, A-0001-2, A-0001-3: one patient or many?" in line


def test_scans_of_one_session_are_one_patients(export, run):
    for name in ("p1", "p2"):
        export(name, ct={"PatientID": "same", "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.5"})
    assert run().warnings == ()


def test_a_ct_exported_twice_is_one_case_with_a_warning(tmp_path, export, run):
    export("p1")
    shutil.copytree(tmp_path / "export" / "p1", tmp_path / "export" / "p2")
    report = run()
    assert (report.imported, report.refused) == (("A-0001",), ())
    assert report.cases[0].images == "4 slices"
    assert report.warnings == (
        "p1/dicom: 4 files in p2/dicom are copies of its slices, byte for byte, and they count once; leave out of the "
        "export what is there twice",
        "p1/dicom: p2/dicom/rt.dcm is a copy of p1/dicom/rt.dcm and counts once; leave it out of the export",
    )
    np.testing.assert_array_equal(read_nifti(tmp_path / "cases" / "A-0001" / "image.nii.gz").array, HU)


def test_halves_of_a_ct_that_overlap_in_copies_are_one_ct(tmp_path, export, run):
    export("p1")
    folder = tmp_path / "export" / "p1" / "dicom"
    (folder.parent / "more").mkdir()
    shutil.copy(folder / "ct-002.dcm", folder.parent / "more")
    (folder / "ct-001.dcm").rename(folder.parent / "more" / "ct-001.dcm")
    report = run()
    assert (report.imported, report.refused) == (("A-0001",), ())
    assert report.warnings == (
        "p1/dicom: 1 file in p1/more is a copy of its slices, byte for byte, and it counts once; leave out of the "
        "export what is there twice",
    )


def test_a_ct_exported_twice_with_other_bytes_is_refused_with_both_folders(tmp_path, export, run):
    export("p1")
    copies = tmp_path / "export" / "p2" / "dicom"
    shutil.copytree(tmp_path / "export" / "p1" / "dicom", copies)
    changed = dcmread(copies / "ct-002.dcm")
    changed.RescaleIntercept = -1000
    changed.save_as(copies / "ct-002.dcm")
    ((name, reason),) = run().refused
    assert name == "p1/dicom"
    assert f"{copies / 'ct-002.dcm'}: has the SOPInstanceUID of {tmp_path / 'export' / 'p1' / 'dicom'}" in reason


def test_a_patients_later_ct_gets_the_stage_that_was_given(tmp_path, export, run):
    export("p1", ct={"PatientID": "same"})
    run(stages={"same": "T3"})
    export("p1-again", ct={"PatientID": "same"})
    assert run().imported == ("A-0001-2",)
    assert [entry.info["stage"] for entry in read_index(tmp_path / "cases")] == ["T3", "T3"]


def test_wrong_series_reference_is_mended_by_frame_of_reference(export, run):
    export("p1", series_uid="1.2.3")
    report = run()
    assert report.imported == ("A-0001",)
    assert len(report.warnings) == 1
    assert "p1/dicom: rt.dcm refers to CT series 1.2.3" in report.warnings[0]


def test_structure_sets_that_fit_none_or_several_are_refused(tmp_path, export, run):
    export("p1", series_uid="1.2.3", frame_uid="1.2.4")
    export("p2", ct={"FrameOfReferenceUID": "1.5", "PatientID": "same"}, series_uid="1.2.3")
    export("p3", ct={"FrameOfReferenceUID": "1.5", "PatientID": "same"})
    report = run()
    assert report.imported == ("A-0001",)
    reasons = dict(report.refused)
    assert "no CT in the export" in reasons["p1/dicom/rt.dcm"]
    assert "fits 2 CT series" in reasons["p2/dicom/rt.dcm"]
    assert "no RTSTRUCT refers to this CT series" in reasons["p1/dicom"]


def test_a_series_beside_the_drawn_one_is_left_out_with_a_warning(tmp_path, export, run, write_ct):
    export("p1")
    write_ct(tmp_path / "export" / "p1" / "contrast", HU, PatientID="secret-p1")
    report = run()
    assert (report.imported, report.refused) == (("A-0001",), ())
    assert report.warnings == (
        "p1/contrast: left out, no RTSTRUCT refers to it; export one that does if it shall be a case too",
    )


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        ({"GTV 1": [TARGET], "GTV 2": [TARGET]}, "matches 2 structures"),
        ({"Cord": [TARGET]}, "no structure matches"),
        ({"GTV": []}, "without contours: 'GTV'"),
        ({"GTV": [TARGET + 10 * UP]}, "22.5 mm outside the image along z"),
    ],
)
def test_a_refused_case_leaves_nothing(tmp_path, export, run, structures, words):
    export("p1", structures)
    report = run()
    assert report.imported == ()
    ((name, reason),) = report.refused
    assert name == "p1/dicom"
    assert words in reason
    assert "\n" not in reason
    assert not (tmp_path / "cases").exists()


def test_a_gap_in_the_series_is_refused_beside_good_cases(tmp_path, export, run):
    export("p1", hu=np.concatenate([HU, HU]))
    export("p2")
    next((tmp_path / "export" / "p1" / "dicom").glob("ct-003.dcm")).unlink()
    report = run()
    assert report.imported == ("A-0001",)
    assert "expected 3.00 mm" in report.refused[0][1]


def test_the_same_name_in_two_structure_sets_is_not_chosen_from(tmp_path, export, run, write_structures):
    slices = export("p1")
    write_structures(tmp_path / "export" / "p1" / "second.dcm", slices, {"GTVnx": [TARGET]})
    shown = "dicom/rt.dcm (GTVnx of 1 contour, not approved), p1/second.dcm (GTVnx of 1 contour, not approved)"
    assert run().refused[0][1] == (
        f"2 structure sets of this CT hold a target: {shown}; expected one; leave out of the export what is outdated"
    )


def test_the_only_approved_structure_set_is_taken_where_the_site_says_so(tmp_path, export, run, write_structures):
    slices = export("p1")
    second = write_structures(tmp_path / "export" / "p1" / "second.dcm", slices, {"GTVnx": [TARGET + UP]})
    dataset = dcmread(second)
    dataset.ApprovalStatus = "APPROVED"
    dataset.save_as(second)
    assert (
        "; expected one; leave out of the export what is outdated, or set ingest.prefer_approved" in run().refused[0][1]
    )
    assert run(IngestConfig(prefer_approved=True)).imported == ("A-0001",)
    label = read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz").array
    assert np.flatnonzero(label.any(axis=(1, 2))).tolist() == [2]
    first = dcmread(tmp_path / "export" / "p1" / "dicom" / "rt.dcm")
    first.ApprovalStatus = "APPROVED"
    first.save_as(tmp_path / "export" / "p1" / "dicom" / "rt.dcm")
    assert "2 structure sets of this CT hold a target" in run(IngestConfig(prefer_approved=True)).refused[0][1]


def test_nodes_in_the_place_of_an_empty_tumour_are_told_or_not_taken(export, run):
    export("p1", {"GTVnx": [], "GTVnd": [TARGET]})
    export("p2", {"GTVnx": [], "GTV": [TARGET], "GTVnd": [TARGET + UP]})
    report = run()
    ((name, reason),) = report.refused
    assert (name, report.imported) == ("p1/dicom", ("A-0001",))
    assert "found 'GTVnd' (without contours: 'GTVnx'); " in reason
    (warning,) = report.warnings
    assert warning.startswith("p2/dicom: the target is 'GTV' by pattern 2 of ingest.structures: ")
    (first, _) = run(IngestConfig(structures=(CONFIG.structures[0], "^gtvn"))).warnings
    assert "the target is 'GTVnd' by pattern 2 of ingest.structures: no drawn structure matches " in first
    assert "'GTVnx' is empty; expected the primary tumour; look at it, " in first


def test_a_models_structure_set_beside_the_physicians_is_left_out(tmp_path, export, run, write_structures):
    slices = export("p1")
    model = write_structures(tmp_path / "export" / "p1" / "rtstruct.dcm", slices, {"GTVnx": [TARGET, TARGET + UP]})
    dataset = dcmread(model)
    dataset.Manufacturer = MANUFACTURER
    dataset.save_as(model)
    report = run()
    assert (report.imported, report.refused) == (("A-0001",), ())
    (warning,) = report.warnings
    assert warning.startswith("p1/dicom: p1/rtstruct.dcm was written by fedgtv-site segment and counts for nothing ")
    assert read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz").array.sum() == 6


@pytest.mark.parametrize("place", ["dicom", "plans"])
def test_a_damaged_newer_structure_set_is_told_with_the_case(tmp_path, export, run, place):
    export("p1")
    export("p2")
    (tmp_path / "export" / "p1" / "plans").mkdir()
    (tmp_path / "export" / "p1" / "dicom" / "rt.dcm").rename(tmp_path / "export" / "p1" / "plans" / "rt.dcm")
    (tmp_path / "export" / "p1" / place / "newer.dcm").write_bytes(b"\0" * 128 + b"DICM")
    report = run()
    assert (report.imported, len(report.unread)) == (("A-0001", "A-0002"), 1)
    (warning,) = report.warnings
    assert warning.startswith(
        "p1/dicom: 1 file beside its slices or structure set cannot be read: the first or last slices, or a newer "
    )


def test_one_slice_that_was_filled_is_told_as_one(export, run):
    export("p1", {"GTVnx": [TARGET, TARGET + 2 * UP]})
    (warning,) = run(IngestConfig(interpolate_gaps=True)).warnings
    assert warning.startswith("p1/dicom: 1 slice without a contour was filled from the neighbours; ")


def test_gaps_too_wide_to_be_filled_are_not_offered_to_be(tmp_path, export, run):
    """Drawn 15 mm apart; 12 mm are filled at most."""
    export("p1", {"GTVnx": [TARGET - UP, TARGET + 4 * UP]}, hu=np.arange(6 * 8 * 9).reshape(6, 8, 9))
    for config in (CONFIG, IngestConfig(interpolate_gaps=True)):
        (warning,) = run(config).warnings
        assert (
            "4 of the slices that the target spans have no contour, in gaps wider than 12 mm, which are nev" in warning
        )
        assert "interpolate_gaps" not in warning


def test_a_structure_set_that_cannot_be_read_may_be_the_one_that_is_missing(tmp_path, export, run):
    export("p1")
    (tmp_path / "export" / "p1" / "dicom" / "rt.dcm").write_bytes(b"\0" * 128 + b"DICM")
    reasons = dict(run().refused)
    assert "but 1 file beside it cannot be read; expected one with the target; copy what " in reasons["p1/dicom"]


def test_a_case_whose_structure_set_is_gone_is_said_to_stay(tmp_path, export, run):
    export("p1")
    export("p2")
    run()
    (tmp_path / "export" / "p1" / "dicom" / "rt.dcm").unlink()
    report = run()
    ((name, reason),) = report.refused
    assert (name, report.skipped) == ("p1/dicom", ("A-0002",))
    assert reason.endswith("; case A-0001 of an earlier import stays in use as it was")


def test_an_export_of_linked_folders_alone_says_so(tmp_path, export, run):
    export("p1")
    (tmp_path / "export" / "p1").rename(tmp_path / "p1")
    (tmp_path / "export" / "p1").symlink_to(tmp_path / "p1")
    with pytest.raises(ImageError, match="1 linked folder passed over, such as p1; give the folder that it leads to"):
        run()


def test_skipped_slices_are_told(export, run):
    export("p1", {"GTVnx": [TARGET, TARGET + 2 * UP]})
    (warning,) = run().warnings
    assert warning.startswith("p1/dicom: 1 of the slices that the target spans has no contour; ")


def test_a_refused_change_leaves_the_earlier_import(tmp_path, export, run, write_structures):
    slices = export("p1")
    run()
    before = files_below(tmp_path / "cases")
    write_structures(tmp_path / "export" / "p1" / "dicom" / "rt.dcm", slices, {"Cord": [TARGET]})
    report = run()
    assert report.refused[0][0] == "p1/dicom"
    assert report.refused[0][1].endswith("; case A-0001 of an earlier import stays in use as it was")
    assert files_below(tmp_path / "cases") == before
    assert len(read_index(tmp_path / "cases")) == 1


def test_a_failure_while_writing_leaves_the_earlier_import_whole(tmp_path, export, run, write_structures, monkeypatch):
    slices = export("p1")
    run()
    before = {name: (tmp_path / "cases" / name).read_bytes() for name in files_below(tmp_path / "cases")}
    write_structures(tmp_path / "export" / "p1" / "dicom" / "rt.dcm", slices, {"GTV": [TARGET + UP]})

    def full_disk(volume, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("client.case_store.write_nifti", full_disk)
    with pytest.raises(WorkError, match="no space"):
        run()
    assert {name: (tmp_path / "cases" / name).read_bytes() for name in files_below(tmp_path / "cases")} == before


def test_a_killed_import_is_cleaned_up(tmp_path, export, run):
    export("p1")
    (tmp_path / "cases" / ".import-1" / "new").mkdir(parents=True)
    run()
    assert sorted(os.listdir(tmp_path / "cases")) == ["A-0001", "cases.json", "pseudonyms.json"]


def test_a_phantoms_truth_travels_along(tmp_path, export, run):
    export("p1")
    truth = tmp_path / "export" / "p1" / "truth.nii.gz"
    write_nifti(Volume(np.ones((4, 8, 9), np.uint8), GRID), truth)
    assert run().imported == ("A-0001",)
    assert read_nifti(tmp_path / "cases" / "A-0001" / "truth.nii.gz").array.all()


@pytest.mark.parametrize("is_link", [True, False])
def test_a_truth_outside_the_export_is_passed_over(tmp_path, export, is_link):
    export("p1")
    outside = tmp_path / "truth.nii.gz" if is_link else tmp_path / "export" / "p1" / "truth.nii.gz"
    write_nifti(Volume(np.ones((4, 8, 9), np.uint8), GRID), outside)
    if is_link:
        (tmp_path / "export" / "p1" / "truth.nii.gz").symlink_to(outside)
    source = tmp_path / "export" if is_link else tmp_path / "export" / "p1" / "dicom"
    report = import_folder(source, tmp_path / "cases", CONFIG, "A")
    assert report.imported == ("A-0001",)
    where = "is a link that leads out of the export" if is_link else "lies above the folder given"
    assert report.warnings == (
        f"{'p1/dicom' if is_link else 'dicom'}: its truth.nii.gz {where}, and is passed over; copy the file itself "
        "into it if it is this case's",
    )
    assert not (tmp_path / "cases" / "A-0001" / "truth.nii.gz").exists()


@pytest.mark.parametrize("name", ["ct.nii.gz", "gtv.nii.gz", "ce.nii.gz", "truth.nii.gz"])
def test_a_nifti_link_out_of_the_export_is_not_read(tmp_path, run, name):
    case = tmp_path / "export" / "pt_1"
    write_case(case)
    shutil.copy(case / "ct.nii.gz", case / "ce.nii.gz")
    shutil.copy(case / "gtv.nii.gz", case / "truth.nii.gz")
    (case / name).rename(tmp_path / name)
    (case / name).symlink_to(tmp_path / name)
    report = run(IngestConfig(contrast_name="ce.nii.gz"))
    if name == "truth.nii.gz":
        assert report.imported == ("A-0001",)
        assert "its truth.nii.gz is a link that leads out of the export" in report.warnings[0]
        assert not (tmp_path / "cases" / "A-0001" / name).exists()
        return
    assert report.refused[0][1].startswith(f"{case / name}: is a link that leads out of the export; expected a file")


def test_a_nifti_link_within_the_export_is_read(tmp_path, run):
    case = tmp_path / "export" / "pt_1"
    write_case(case)
    (tmp_path / "export" / "store").mkdir()
    (case / "ct.nii.gz").rename(tmp_path / "export" / "store" / "1.nii.gz")
    (case / "ct.nii.gz").symlink_to(Path("..", "store", "1.nii.gz"))
    assert run().imported == ("A-0001",)


def test_a_nifti_export_is_imported(tmp_path, run):
    write_case(tmp_path / "export" / "pt_2")
    write_case(tmp_path / "export" / "pt_10", array=HU + 0.5, label=(HU > 0).astype(np.uint8) * 255)
    report = run()
    assert report.imported == ("A-0001", "A-0002")
    fraction, whole = (read_nifti(tmp_path / "cases" / name / "image.nii.gz") for name in report.imported)
    assert (fraction.array.dtype, whole.array.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(fraction.array, HU + 0.5)
    label = read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz")
    np.testing.assert_array_equal(label.array, HU > 0)
    assert run().skipped == report.imported


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"label": np.zeros((4, 8, 9), np.uint8)}, "values 0; expected 0 and 1"),
        ({"label": HU.astype(np.int16)}, r"values -100, -99, -98, -97, -96, ...;"),
        ({"label_geometry": Geometry((4, 8, 9), (3.0, 1.0, 1.0))}, "resample it"),
    ],
)
def test_nifti_cases_that_do_not_fit_leave_nothing(tmp_path, run, arguments, words):
    write_case(tmp_path / "export" / "pt_1", **arguments)
    ((name, reason),) = run().refused
    assert name == "pt_1"
    assert words in reason
    assert not (tmp_path / "cases").exists()


def test_a_nifti_folder_without_image_or_label_is_refused(tmp_path, run):
    for name, missing in {"pt_1": "ct.nii.gz", "pt_2": "gtv.nii.gz"}.items():
        write_case(tmp_path / "export" / name)
        (tmp_path / "export" / name / missing).unlink()
    refused = run().refused
    assert [name for name, _ in refused] == ["pt_1", "pt_2"]
    assert all("no such file" in reason for _, reason in refused)


@pytest.mark.parametrize("is_gone", [False, True])
def test_folders_of_one_name_in_two_exports_do_not_replace_each_other(tmp_path, run, is_gone):
    """Whoever calls the patients of every export 1, 2, 3 and clears the last one must not get them mixed up."""
    write_case(tmp_path / "export" / "pt_1")
    run()
    before = (tmp_path / "cases" / "A-0001" / "image.nii.gz").read_bytes()
    write_case(tmp_path / "other" / "pt_1", array=HU * 2)
    if is_gone:
        shutil.rmtree(tmp_path / "export" / "pt_1")
    report = import_folder(tmp_path / "other", tmp_path / "cases", CONFIG, "A")
    assert (report.imported, report.skipped) == ((), ())
    (_, reason) = report.refused[0]
    assert all(str(tmp_path / name / "pt_1") in reason for name in ("export", "other"))
    assert ("where it is no longer" in reason) == is_gone
    assert (tmp_path / "cases" / "A-0001" / "image.nii.gz").read_bytes() == before
    shutil.rmtree(tmp_path / "export")
    (tmp_path / "other").rename(tmp_path / "export")
    assert run().imported == ("A-0001",)


def test_another_place_is_told_by_bytes_and_not_by_size_and_time(tmp_path, run):
    """Archives are unpacked with fixed times, and uncompressed images of one grid have one size."""
    first, second = (tmp_path / name / "pt_1" for name in ("export", "other"))
    write_case(first)
    run()
    shutil.copytree(first, second)
    report = import_folder(tmp_path / "other", tmp_path / "cases", CONFIG, "A")
    assert (report.skipped, report.refused) == (("A-0001",), ())
    image = second / "ct.nii.gz"
    status, data = image.stat(), bytearray(image.read_bytes())
    data[4] ^= 1  # the time in gzip's header
    image.write_bytes(data)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image.stat().st_size == status.st_size
    report = import_folder(tmp_path / "other", tmp_path / "cases", CONFIG, "A")
    assert (report.skipped, report.imported) == ((), ())
    ((name, reason),) = report.refused
    assert (name, reason.partition(" differs")[0]) == ("pt_1", f"what lies at {second}")


@pytest.mark.parametrize("is_copy", [False, True])
def test_an_import_from_another_folder_gives_no_second_pseudonyms(tmp_path, run, is_copy):
    write_case(tmp_path / "export" / "deep" / "pt_1")
    run()
    if is_copy:
        shutil.copytree(tmp_path / "export" / "deep", tmp_path / "copy")
    write_case(tmp_path / ("copy" if is_copy else "export/deep") / "pt_2", array=HU + 1)
    source = tmp_path / ("copy" if is_copy else "export/deep")
    report = import_folder(source, tmp_path / "cases", CONFIG, "A")
    assert report.imported == ("A-0002",)
    ((name, reason),) = report.refused
    told = f"its {'files were' if is_copy else 'folder was'} imported before as A-0001, as 'deep/pt_1' from "
    assert (name, reason.partition(str(tmp_path))[0]) == ("pt_1", told)


def test_the_sites_own_cases_are_not_imported_again(tmp_path):
    """An export's files may be called as those of imported cases are, and the cases folder may lie within it."""
    config = IngestConfig(image_name="image.nii.gz", label_name="label.nii.gz")
    write_case(tmp_path / "p1")
    for name, new in {"ct": "image", "gtv": "label"}.items():
        (tmp_path / "p1" / f"{name}.nii.gz").rename(tmp_path / "p1" / f"{new}.nii.gz")
    reports = [import_folder(tmp_path, tmp_path / "site" / "cases", config, "A") for _ in range(2)]
    assert [(report.imported, report.skipped) for report in reports] == [(("A-0001",), ()), ((), ("A-0001",))]
    with pytest.raises(ImageError, match="no CT among"):
        import_folder(tmp_path / "site" / "cases", tmp_path / "site" / "cases", config, "A")


def test_a_series_that_comes_back_with_another_patient_is_refused_by_name(tmp_path, export, run):
    uid = generate_uid()
    export("p1", ct={"SeriesInstanceUID": uid})
    run()
    before = (tmp_path / "cases" / "A-0001" / "image.nii.gz").read_bytes()
    shutil.rmtree(tmp_path / "export")
    export("p9", ct={"SeriesInstanceUID": uid}, hu=HU + 1)
    ((name, reason),) = run().refused
    assert name == "p9/dicom"
    assert reason.startswith("its series was imported before as A-0001")
    assert "another PatientID" in reason
    assert (tmp_path / "cases" / "A-0001" / "image.nii.gz").read_bytes() == before


@pytest.mark.parametrize("content", ["nothing", "structures only"])
def test_an_export_without_ct_is_refused_in_one_line(tmp_path, export, run, content):
    (tmp_path / "export").mkdir()
    if content == "structures only":
        export("p1")
        for path in (tmp_path / "export").rglob("ct-*.dcm"):
            path.unlink()
    with pytest.raises(ImageError, match=r"no CT among (0 files|1 file);") as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cases").exists()


def test_damaged_pseudonyms_stop_the_import(tmp_path, export, run):
    export("p1")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "pseudonyms.json").write_text('{"patients": 3}')
    with pytest.raises(InputError, match=r"pseudonyms.json: damaged"):
        run()


def test_pseudonyms_count_on_from_the_highest_and_keep_sites_with_dashes(tmp_path):
    pseudonyms = Pseudonyms(patients={"a": "site-1-0001", "b": "site-1-0007"})
    assert pseudonyms.patient_id("site-1", "a") == "site-1-0001"
    assert pseudonyms.patient_id("site-1", "c") == "site-1-0008"
    pseudonyms.save(tmp_path)
    assert Pseudonyms.load(tmp_path) == pseudonyms
    assert json.loads((tmp_path / "pseudonyms.json").read_text())["patients"]["b"] == "site-1-0007"


def test_a_dry_run_reads_all_and_writes_nothing(tmp_path, export, run, write_structures):
    export("p1")
    run()
    slices = export("p2")
    export("p3", {"Cord": [TARGET]})
    export("p4", {"GTV": [TARGET + 10 * UP]})
    write_structures(tmp_path / "export" / "p2" / "stray.dcm", slices, {"GTV": [TARGET]}, "", "1.2.3", "1.2.4")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    report = run(dry_run=True, list_all=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    lines = {line.name: (line.action, line.found.chosen, line.found.pattern, line.case_id) for line in report.cases}
    assert lines == {
        "p1/dicom": ("unchanged", "GTVnx", CONFIG.structures[0], "A-0001"),
        "p2/dicom": ("new", "GTVnx", CONFIG.structures[0], ""),
        "p2/stray.dcm": ("refused", "", "", ""),
        "p3/dicom": ("refused", "", "", ""),
        "p4/dicom": ("refused", "GTV", CONFIG.structures[1], ""),
    }
    assert (report.imported, report.skipped, len(report.refused)) == ((), ("A-0001",), 3)
    assert run().refused == report.refused


def test_a_dry_run_of_a_first_import_makes_no_folder(tmp_path, export, run):
    export("p1")
    (line,) = run(dry_run=True).cases
    assert (line.images, line.structure_sets, line.pairing) == ("4 slices", ("rt.dcm",), "series reference")
    assert not (tmp_path / "cases").exists()


@pytest.mark.parametrize("grid", [{}, {"spacing_mm": (1.5, 0.8, 0.8), "origin_mm": (-9.0, -18.0, 31.0)}])
def test_a_contrast_ct_becomes_the_second_image_on_its_own_grid(tmp_path, export, run, write_ct, grid):
    frame = "1.2.826.0.1.3680043.8.498.5"
    export("p1", ct={"FrameOfReferenceUID": frame})
    tags = {"PatientID": "secret-p1", "FrameOfReferenceUID": frame, "SeriesDescription": "H&N contrast 70s"}
    write_ct(tmp_path / "export" / "p1" / "ce", HU + 30, **grid, **tags)
    config = IngestConfig(contrast=("contrast",))
    report = run(config)
    assert (report.imported, report.warnings) == (("A-0001",), ())
    assert report.cases[0].images == "4 slices + 4"
    (entry,) = read_index(tmp_path / "cases")
    assert entry.images == ("A-0001/image.nii.gz", "A-0001/contrast.nii.gz")
    plain, contrast = (read_nifti(tmp_path / "cases" / name) for name in entry.images)
    np.testing.assert_array_equal(plain.array, HU)
    np.testing.assert_array_equal(contrast.array, HU + 30)
    assert contrast.geometry.spacing_mm == pytest.approx(grid.get("spacing_mm", GRID.spacing_mm))
    assert run(config).skipped == ("A-0001",)
    assert run().imported == ("A-0001",)  # without the second image in site.yaml
    assert read_index(tmp_path / "cases")[0].images == ("A-0001/image.nii.gz",)
    assert not (tmp_path / "cases" / "A-0001" / "contrast.nii.gz").exists()


def test_a_contrast_ct_in_another_frame_of_reference_refuses_its_case(tmp_path, export, run, write_ct):
    export("p1")
    write_ct(tmp_path / "export" / "p1" / "ce", HU, PatientID="secret-p1", SeriesDescription="contrast")
    ((name, reason),) = run(IngestConfig(contrast=("contrast",))).refused
    assert name == "p1/dicom"
    assert reason.startswith("contrast CT p1/ce 'contrast' lies in another frame of reference than p1/dicom ''; ")


@pytest.mark.parametrize(("z_mm", "words"), [(30.0, None), (31.0, "whose grid is not the plain CT's")])
def test_structures_on_the_contrast_ct_need_the_plain_ones_grid(tmp_path, export, run, write_ct, z_mm, words):
    frame = "1.2.826.0.1.3680043.8.498.5"
    export("p1", ct={"FrameOfReferenceUID": frame, "SeriesDescription": "contrast"}, hu=HU + 30)
    tags = {"PatientID": "secret-p1", "FrameOfReferenceUID": frame, "SeriesDescription": "native"}
    write_ct(tmp_path / "export" / "p1" / "native", HU, origin_mm=(-10.0, -20.0, z_mm), **tags)
    report = run(IngestConfig(contrast=("contrast",)))
    if words:
        assert words in report.refused[0][1]
        return
    first, second = (read_nifti(tmp_path / "cases" / name).array for name in read_index(tmp_path / "cases")[0].images)
    np.testing.assert_array_equal(first, HU)
    np.testing.assert_array_equal(second, HU + 30)


@pytest.fixture
def export_both(tmp_path, write_ct, write_structures):
    """A function that writes a patient's plain and contrast CT; `on_plain` and `on_contrast` are drawn on them."""

    def write(on_plain=None, on_contrast=None):
        folder = tmp_path / "export" / "p1"
        shutil.rmtree(folder, ignore_errors=True)
        for name, structures in {"plain": on_plain, "ce": on_contrast}.items():
            number = f"1.2.826.0.1.3680043.8.498.{len(name)}"
            uids = {"FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.9", "SeriesInstanceUID": number}
            tags = {"PatientID": "secret-p1", "SeriesDescription": name, "StudyInstanceUID": "1.9"} | uids
            slices = write_ct(folder / name, HU + 30 * (name == "ce"), **tags)
            if structures:
                write_structures(folder / name / f"rt-{name}.dcm", slices, structures)

    return write


CONTRAST = IngestConfig(contrast=("^ce$",))


def test_targets_on_both_images_of_a_case_are_rivals_and_no_two_cases(export_both, run):
    export_both({"GTVnx": [TARGET]}, {"GTVnx": [TARGET + UP]})
    ((name, reason),) = run(CONTRAST).refused
    assert name == "p1/plain"
    assert reason.startswith("2 structure sets of this CT hold a target: plain/rt-plain.dcm (")
    assert "ce/rt-ce.dcm (" in reason


@pytest.mark.parametrize("is_on_contrast", [True, False])
def test_the_target_on_one_image_and_organs_on_the_other_are_one_case(tmp_path, export_both, run, is_on_contrast):
    drawn = [{"Cord": [TARGET]}, {"GTVnx": [TARGET + UP]}]
    export_both(*(drawn if is_on_contrast else drawn[::-1]))
    report = run(CONTRAST)
    assert (report.imported, report.refused, report.warnings) == (("A-0001",), (), ())
    (entry,) = read_index(tmp_path / "cases")
    plain, contrast = (read_nifti(tmp_path / "cases" / name).array for name in entry.images)
    np.testing.assert_array_equal(plain, HU)
    np.testing.assert_array_equal(contrast, HU + 30)
    assert read_nifti(tmp_path / "cases" / entry.label).array[2].sum() == 6


@pytest.mark.parametrize("is_first_plain", [True, False])
def test_a_target_drawn_anew_on_the_other_image_stays_the_same_case(tmp_path, export_both, run, is_first_plain):
    target = {"GTVnx": [TARGET]}
    export_both(*((target, None) if is_first_plain else (None, target)))
    assert run(CONTRAST).imported == ("A-0001",)
    export_both(*((None, target) if is_first_plain else (target, None)))
    assert run(CONTRAST).imported == ("A-0001",)
    assert run(CONTRAST).skipped == ("A-0001",)
    assert len(read_index(tmp_path / "cases")) == 1


def test_structures_on_two_contrast_cts_are_refused(tmp_path, export_both, run, write_ct, write_structures):
    export_both({"Cord": [TARGET]}, {"GTVnx": [TARGET]})
    tags = {"PatientID": "secret-p1", "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.9"}
    slices = write_ct(tmp_path / "export" / "p1" / "late", HU, SeriesDescription="late", **tags)
    write_structures(tmp_path / "export" / "p1" / "late" / "rt.dcm", slices, {"Cord": [TARGET]})
    ((name, reason),) = run(IngestConfig(contrast=("^ce$", "^late$"))).refused
    assert name == "p1/plain"
    assert "whose contrast CTs are p1/ce, p1/late; expected one contrast CT" in reason


def test_a_second_nifti_image_beside_the_first_is_refused_by_place(tmp_path, run):
    write_case(tmp_path / "export" / "pt_1")
    far = Volume(HU.astype(np.int16), Geometry(GRID.size, GRID.spacing_mm, (500.0, 0.0, 0.0)))
    write_nifti(far, tmp_path / "export" / "pt_1" / "ce.nii.gz")
    assert "lies beside the plain CT" in run(IngestConfig(contrast_name="ce.nii.gz")).refused[0][1]


def deny(monkeypatch, denied):
    """The system's own answer to a plain account: tests may run as root, whom nothing is denied."""
    walk = os.walk

    def walking(top, onerror=None, **more):
        for where, folders, files in walk(top, onerror=onerror, **more):
            kept_out = [name for name in folders if Path(where, name) in denied]
            for name in kept_out:
                onerror(PermissionError(errno.EACCES, "Permission denied", str(Path(where, name))))
                folders.remove(name)
            yield where, folders, files

    def guarded(read):
        def reading(source, *arguments, **more):
            if source in denied:
                raise PermissionError(errno.EACCES, "Permission denied", str(source))
            return read(source, *arguments, **more)

        return reading

    monkeypatch.setattr("common.file_tree.os.walk", walking)
    monkeypatch.setattr("common.dicom_files.dcmread", guarded(dcmread))
    monkeypatch.setattr(Path, "open", guarded(Path.open))


def test_folders_and_files_without_permission_are_told_beside_good_cases(tmp_path, export, run, monkeypatch):
    for name in ("p1", "p2"):
        export(name)
    write_case(tmp_path / "export" / "p3")
    own = tmp_path / "export"
    (own / "p1" / "dicom" / "odd.dcm").write_bytes(b"anything")
    deny(monkeypatch, {own / "p2", own / "p1" / "dicom" / "odd.dcm", own / "p3" / "gtv.nii.gz"})
    report = run()
    assert report.imported == ("A-0001",)
    assert dict(report.refused) == {
        "p2": DENIED,
        "p1/dicom/odd.dcm": DENIED,
        "p3/gtv.nii.gz": DENIED,
        "p3": f"{own / 'p3' / 'gtv.nii.gz'}: {DENIED}",
    }
    assert [line.unread for line in report.cases] == ["denied", "denied", "denied", "", ""]


def test_an_export_that_may_not_be_read_says_so(tmp_path, export, run, monkeypatch):
    export("p1")
    deny(monkeypatch, {tmp_path / "export" / "p1"})
    with pytest.raises(
        ImageError, match=r"export: no CT among 0 files; 1 could not be read, such as p1: cannot be read:"
    ):
        run()


def test_many_damaged_files_of_a_folder_are_one_line_in_brief(tmp_path, export, run):
    export("p1")
    for number in range(37):
        path = tmp_path / "export" / "p1" / "other" / f"{number:02d}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "export" / "alone.dcm").write_bytes(b"\0" * 128 + b"DICM")
    report = run()
    assert (len(report.refused), len(report.unread), report.imported) == (38, 38, ("A-0001",))
    reason = "DICOM without SOPClassUID; it was cut short, copy it again"
    assert report.in_brief().refused == (
        ("alone.dcm", reason),
        ("p1/other", f"37 files, such as 00.dcm (--list names all): {reason}"),
    )
    assert summary(report) == "1 imported, 0 unchanged, 0 refused, 38 not readable"


def test_other_modalities_beside_the_ct_play_no_part(tmp_path, export, run):
    slices = export("p1")
    classes = {"PT": "1.2.840.10008.5.1.4.1.1.128", "MR": "1.2.840.10008.5.1.4.1.1.4"}
    classes |= {"RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5", "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2"}
    for modality, sop_class in classes.items():
        other = copy.deepcopy(slices[0])
        other.Modality, other.SOPClassUID, other.SeriesInstanceUID = modality, sop_class, generate_uid()
        other.save_as(tmp_path / "export" / "p1" / f"{modality}.dcm")
    (tmp_path / "export" / "DICOMDIR").write_bytes(b"no DICOM")
    assert run().imported == ("A-0001",)


def test_two_patients_mixed_in_one_flat_folder_are_told_apart(tmp_path, export, run):
    for name in ("p1", "p2"):
        export(name)
        for path in (tmp_path / "export" / name / "dicom").iterdir():
            path.rename(tmp_path / "export" / f"{name}-{path.name}")
    report = run()
    assert report.imported == ("A-0001", "A-0002")
    assert [line.name.partition(" (series ")[0] for line in report.cases] == ["export", "export"]


@pytest.mark.real_data
def test_sarcomas_are_imported_though_every_reference_is_wrong(tmp_path, real_data):
    for case in ("sarcoma_mim_1", "sarcoma_mim_2"):
        shutil.copytree(real_data / "dicom" / case, tmp_path / "export" / case)
    report = import_folder(tmp_path / "export", tmp_path / "cases", CONFIG, "A")
    assert report.imported == ("A-0001", "A-0002")
    assert sum("by frame of reference" in warning for warning in report.warnings) == 2
    volumes = [read_nifti(tmp_path / "cases" / name / "label.nii.gz") for name in report.imported]
    assert [v.array.sum() * v.geometry.voxel_ml for v in volumes] == pytest.approx([365, 53], rel=0.03)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (CONFIG.structures, "no structure matches .*; found 'BODY', .*'Breast'.*'Tumor Bed Block' .*: 'Areola'"),
        (("breast|block",), "matches 2 structures: 'Breast', 'Tumor Bed Block'; expected one"),
        (("^tumor bed",), "matches 2 structures: 'Tumor Bed', 'Tumor Bed Block'; expected one"),
        (("^areola",), "without contours: 'Areola'"),
    ],
)
def test_two_structures_typed_gtv_of_a_breast_are_not_chosen_from(tmp_path, real_data, patterns, words):
    source = real_data / "dicom" / "breast_eclipse"
    report = import_folder(source, tmp_path / "cases", IngestConfig(structures=patterns), "A")
    assert re.search(words, report.refused[0][1])
    assert len(report.cases[0].found.structures) == 10
    assert not (tmp_path / "cases").exists()


@pytest.mark.real_data
@pytest.mark.parametrize(("pattern", "volume_ml"), [("^tumor bed block$", 64), ("^tumor bed$", 13)])
def test_a_structure_of_the_breast_that_is_named_is_taken(tmp_path, real_data, pattern, volume_ml):
    config = IngestConfig(structures=(pattern,))
    report = import_folder(real_data / "dicom" / "breast_eclipse", tmp_path / "cases", config, "A")
    assert (report.imported, report.warnings) == (("A-0001",), ())
    label = read_nifti(tmp_path / "cases" / "A-0001" / "label.nii.gz")
    assert label.array.sum() * label.geometry.voxel_ml == pytest.approx(volume_ml, rel=0.03)
    assert read_index(tmp_path / "cases")[0].info == {"spacing_mm": [3.0, 1.0742, 1.0742], "size": [98, 512, 512]}


@pytest.mark.real_data
def test_a_neck_without_structures_is_refused_by_name(tmp_path, real_data):
    report = import_folder(real_data / "dicom" / "neck_siemens", tmp_path / "cases", CONFIG, "A")
    assert report.refused == (
        ("neck_siemens", "no RTSTRUCT refers to this CT series; expected one with the target; export it with the CT"),
    )


@pytest.mark.real_data
def test_malformed_structure_sets_are_refused_each_for_its_own_reason(tmp_path, real_data):
    """A frame of its own, contours of five slices on a series of two, references to nothing, no contours at all."""
    config = IngestConfig(structures=("^roi-1$",))
    said = {}
    for name in ("rt", "invalid_reference_rt", "non_existent_reference_rt"):
        for file in ("ct_1", "ct_2", name):
            (tmp_path / name).mkdir(exist_ok=True)
            path = real_data / "dicom" / "rtutils_malformed" / "mock_data" / f"{file}.dcm"
            shutil.copy(path, tmp_path / name / path.name)
        said[name] = import_folder(tmp_path / name, tmp_path / f"{name}-cases", config, "A")
    assert "'ROI-1' is in the frame of reference 1.2.826.0.1" in dict(said["rt"].refused)["rt"]
    reason = dict(said["invalid_reference_rt"].refused)["invalid_reference_rt"]
    assert "draws 'ROI-1' on 3 images, and the 2 of this CT that can be read hold 2 of them; " in reason
    reasons = dict(said["non_existent_reference_rt"].refused)
    assert "its contours reach outside" in reasons["non_existent_reference_rt.dcm"]
    whole = import_folder(real_data / "dicom" / "rtutils_malformed", tmp_path / "whole", config, "A")
    reasons = dict(whole.refused)
    assert "no RTSTRUCT refers to this CT series" in reasons["oriented_data"]
    assert reasons["mock_data"].startswith("2 structure sets of this CT hold a target: ")
    assert whole.imported == ()


@pytest.mark.real_data
def test_openkbp_is_imported(tmp_path, real_data):
    for case in ("pt_90", "pt_93"):
        shutil.copytree(real_data / "openkbp" / "C" / case, tmp_path / "export" / case)
    report = import_folder(tmp_path / "export", tmp_path / "cases", IngestConfig(label_name="ptv70.nii.gz"), "C")
    assert report.imported == ("C-0001", "C-0002")
    entry = read_index(tmp_path / "cases")[0]
    assert entry.info == {"spacing_mm": [3.0, 3.906, 3.906], "size": [128, 128, 128]}
    source = read_nifti(real_data / "openkbp" / "C" / "pt_90" / "ptv70.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "cases" / entry.label).array, source.array)


@pytest.mark.slow
@pytest.mark.real_data
def test_all_100_openkbp_cases_are_imported_voxel_by_voxel(tmp_path, real_data):
    source = real_data / "openkbp"
    report = import_folder(source, tmp_path / "cases", IngestConfig(label_name="ptv70.nii.gz"), "K", num_processes=2)
    assert (len(report.imported), report.refused) == (100, ())
    for line in report.cases:
        image, label = (read_nifti(tmp_path / "cases" / line.case_id / f"{name}.nii.gz") for name in ("image", "label"))
        ct, target = (read_nifti(source / line.name / f"{name}.nii.gz") for name in ("ct", "ptv70"))
        np.testing.assert_array_equal(image.array, ct.array)
        np.testing.assert_array_equal(label.array, target.array != 0)
        assert image.geometry.matches(ct.geometry)
