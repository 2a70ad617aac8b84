"""A model file and a scan become mask, picture and RTSTRUCT, together or not at all."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread

from client.model_package import read_model
from client.result_check import IMPLAUSIBLE_VOLUME, IN_PIECES, NOTHING_FOUND, OUTSIDE_BODY, TOUCHES_REGION
from client.segment import NO_FRAME, segment_scan
from common.body import COUCH_CUT, MASK_SHELL, PRONE, TRUNCATED
from common.cascade import EXCEEDS_CROP, STAGE1_EMPTY
from common.checkpoint import load_weights, save_weights
from common.dicom import read_ct_series
from common.errors import CheckpointError, ConfigError, ImageError, WorkError
from common.pictures import overlay_png
from common.preprocess import FEET_FIRST
from common.region import CHEST_IN_VIEW, NO_HEAD, NO_SHOULDERS
from common.segmentation import TOUCHES_CROP, Segmentation
from common.volume import Geometry, Volume, read_nifti, write_nifti

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def scan(tmp_path, write_ct, tiny_hu):
    def write(**tags):
        write_ct(tmp_path / "scan", tiny_hu, spacing_mm=(4.0, 4.0, 4.0), **tags)
        return tmp_path / "scan"

    return write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_model_file_holds_all_that_is_needed(tmp_path, write_model):
    model = read_model(write_model(tmp_path / "m.safetensors", bias=1.5))
    assert (model.name, model.normalisation.mean, model.normalisation.sd) == ("tiny", 0.0, 100.0)
    head = model.networks(CPU)["stage1"].head
    assert head.bias.tolist() == [1.5]


@pytest.mark.parametrize("missing", ["recipe", "normalisation", "model"])
def test_a_file_without_its_metadata_is_refused(tmp_path, missing):
    metadata = {"recipe": "{}", "normalisation": '{"mean": 0, "sd": 1}', "model": "m"}
    del metadata[missing]
    save_weights(tmp_path / "m.safetensors", {"a": np.zeros(1)}, metadata)
    with pytest.raises(CheckpointError, match=f"has no '{missing}' in its metadata"):
        read_model(tmp_path / "m.safetensors")


def test_a_recipe_of_another_release_is_refused(tmp_path):
    metadata = {"recipe": "{depth: 3}", "normalisation": '{"mean": 0, "sd": 1}', "model": "m"}
    save_weights(tmp_path / "m.safetensors", {"a": np.zeros(1)}, metadata)
    with pytest.raises(ConfigError, match="unknown key 'depth'"):
        read_model(tmp_path / "m.safetensors")


def test_everything_inside_the_body_is_found_and_written(tmp_path, scan, write_model):
    """A constant logit above the threshold marks the whole region of interest: of it, what lies in the body stays.

    The body is 16 x 16 voxels on 16 slices, less the four corners that its opening rounds off; the region is 3 wider.
    """
    folder = scan()
    outcome = segment_scan(folder, read_model(write_model(tmp_path / "m.safetensors", bias=4.0)), tmp_path / "out")
    mask = read_nifti(tmp_path / "out" / "mask.nii.gz")
    series = read_ct_series(folder)
    assert mask.geometry.matches(series.volume.geometry)
    assert mask.array[:, 4:20, 5:19].all()
    assert mask.array.sum() == 252 * 16
    assert outcome.volume_ml == pytest.approx(252 * 16 * 0.064)
    outside = "outside-body: 237.57 ml were taken out"  # (22 x 22 - 252) * 16 voxels
    assert outcome.flags == (outside, "touches-region")  # the body goes through all slices
    assert names(tmp_path / "out") == ["mask.nii.gz", "overlay.png", "report.json", "rtstruct.dcm"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["model"], report["volume_ml"]) == ("tiny", outcome.volume_ml)
    structures = dcmread(tmp_path / "out" / "rtstruct.dcm")
    assert structures.StructureSetROISequence[0].ROIName == "GTVnx_auto"
    assert structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == series.frame_uid


@pytest.fixture
def found(monkeypatch):
    """A function that lets every model find this mask, whatever the scan."""

    def find(mask, *flags):
        result = Segmentation(mask, mask.astype(np.float32), flags)
        monkeypatch.setattr("client.segment.segment", lambda *_: result)

    return find


@pytest.mark.parametrize(
    ("blocks", "flags"),
    [
        ([(6, 8)], ()),
        ([(3, 12), (13, 14)], ("in-pieces: 2, the largest holds 90 % of the volume",)),
        ([(4, 7), (9, 10)], ("in-pieces: 2, the largest holds 75 % of the volume",)),
        ([(4, 6), (8, 10)], ("in-pieces: 2, the largest holds 50 % of the volume",)),
        ([(1, 10), (11, 12), (13, 14)], ("in-pieces: 3, the largest holds 82 % of the volume",)),
        ([(0, 10)], ("touches-region",)),
        ([(6, 16)], ("touches-region",)),
        ([], ("nothing-found",)),
    ],
)
def test_a_result_in_pieces_is_flagged(tmp_path, scan, write_model, found, blocks, flags):
    """Blocks of 4 x 4 voxels on the slices given, well inside the body."""
    mask = np.zeros((16, 24, 24), np.bool_)
    for start, stop in blocks:
        mask[start:stop, 8:12, 8:12] = True
    found(mask, "couch-cut")
    outcome = segment_scan(scan(), read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert outcome.flags == ("couch-cut", *flags)
    assert outcome.volume_ml == pytest.approx(mask.sum() * 0.064)


def test_crumbs_beside_one_large_piece_are_flagged(tmp_path, scan, write_model, found):
    mask = np.zeros((16, 24, 24), np.bool_)
    mask[4:10, 6:16, 6:16] = True
    mask[12, 8, [6, 8, 10]] = True
    mask[13, 9, 11] = True  # touches the last by a corner: still four
    found(mask)
    outcome = segment_scan(scan(), read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert outcome.flags == ("in-pieces: 4, the largest holds 99 % of the volume",)
    mask[12:14] = False
    assert segment_scan(scan(), read_model(tmp_path / "m.safetensors"), tmp_path / "out").flags == ()


def test_what_lies_outside_the_body_alone_is_nothing(tmp_path, scan, write_model, found):
    mask = np.zeros((16, 24, 24), np.bool_)
    mask[4:6, :2, :2] = True
    found(mask)
    outcome = segment_scan(scan(), read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert outcome.flags == ("outside-body: 0.51 ml were taken out", "nothing-found")
    assert names(tmp_path / "out") == ["mask.nii.gz", "overlay.png", "report.json"]


def test_every_flag_is_explained_in_the_docs():
    text = (Path(__file__).parents[1] / "docs" / "joining.md").read_text(encoding="utf-8")
    table = text[text.index("| flag | meaning |") :].split("\n\n")[0]
    flags = {flag for line in table.splitlines() for flag in line.split("|")[1].split("`")[1::2]}
    preparation = {COUCH_CUT, MASK_SHELL, NO_SHOULDERS, NO_HEAD, CHEST_IN_VIEW, PRONE, TRUNCATED, FEET_FIRST}
    inference = {STAGE1_EMPTY, EXCEEDS_CROP, TOUCHES_CROP}
    result = {OUTSIDE_BODY, IN_PIECES, NOTHING_FOUND, TOUCHES_REGION, IMPLAUSIBLE_VOLUME, NO_FRAME.partition(":")[0]}
    assert flags == preparation | inference | result


def test_an_earlier_scans_structures_do_not_stay(tmp_path, scan, write_model):
    """An empty result in the same folder must not stand beside the last patient's contours."""
    folder, out = scan(), tmp_path / "out"
    segment_scan(folder, read_model(write_model(tmp_path / "m.safetensors", bias=4.0)), out)
    outcome = segment_scan(folder, read_model(write_model(tmp_path / "m.safetensors", bias=-4.0)), out)
    assert names(out) == ["mask.nii.gz", "overlay.png", "report.json"]
    assert outcome.flags[-1] == "nothing-found"
    assert outcome.volume_ml == 0
    assert outcome.files == (out / "mask.nii.gz", out / "overlay.png", out / "report.json")


def test_a_series_without_frame_of_reference_gets_mask_and_flag(tmp_path, scan, write_model):
    folder = scan(FrameOfReferenceUID="")
    model = read_model(write_model(tmp_path / "m.safetensors", bias=4.0))
    assert segment_scan(folder, model, tmp_path / "out").flags[-1] == NO_FRAME
    assert names(tmp_path / "out") == ["mask.nii.gz", "overlay.png", "report.json"]


def test_a_failure_while_writing_leaves_the_earlier_result(tmp_path, scan, write_model, monkeypatch):
    folder, out = scan(), tmp_path / "out"
    model = read_model(write_model(tmp_path / "m.safetensors", bias=4.0))
    segment_scan(folder, model, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("client.segment.write_rtstruct", full_disk)
    with pytest.raises(WorkError, match=r"out: cannot be written \(No space left on device\); free space"):
        segment_scan(folder, model, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_model_of_two_images_is_refused(tmp_path, scan, write_model, monkeypatch):
    path = write_model(tmp_path / "m.safetensors")
    model = read_model(path)
    stage1 = model.recipe.stage1
    two = stage1.model_copy(update={"network": stage1.network.model_copy(update={"in_channels": 2})})
    monkeypatch.setattr("client.model_package.load_model", lambda *_: {})
    other = replace(model, recipe=model.recipe.model_copy(update={"stage1": two}))
    with pytest.raises(CheckpointError, match=r"m\.safetensors: model 'tiny' needs 2 images"):
        segment_scan(scan(), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scan_that_is_not_there_is_refused(tmp_path, write_model):
    with pytest.raises(ImageError, match="does not exist"):
        segment_scan(tmp_path / "none", read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_ct_by_its_values_is_refused(tmp_path, tiny_label, write_model):
    """A label among the images of a folder, say."""
    write_nifti(Volume(tiny_label, Geometry(tiny_label.shape, (4.0, 4.0, 4.0))), tmp_path / "gtv.nii.gz")
    with pytest.raises(ImageError, match="gtv: values 0 to 1 are not HU; expected air and bone"):
        segment_scan(tmp_path / "gtv.nii.gz", read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_structure_set_names_model_version_and_software(tmp_path, scan, write_model):
    path = write_model(tmp_path / "m.safetensors", bias=4.0)
    weights, metadata = load_weights(path)
    save_weights(path, weights, {**metadata, "experiment": "demo", "round": "7"})
    model = read_model(path)
    segment_scan(scan(), model, tmp_path / "out")
    told = dcmread(tmp_path / "out" / "rtstruct.dcm").StructureSetDescription
    assert told.startswith(f"model tiny {model.version()}, round 7 of demo; not for clinical use; fedgtv ")


def test_the_picture_says_whose_it_is_and_what_it_is_not_for(tmp_path, scan, write_model, monkeypatch):
    titles = []

    def recorded(*arguments):
        titles.append(arguments[-1])
        return overlay_png(*arguments)

    monkeypatch.setattr("client.segment.overlay_png", recorded)
    segment_scan(scan(), read_model(write_model(tmp_path / "m.safetensors", bias=4.0)), tmp_path / "out")
    assert titles == ["predicted by tiny; not for clinical use"]
