"""A model file and a scan become mask, picture and RTSTRUCT, together or not at all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydicom import dcmread

from client.segment import NO_FRAME, read_model, segment_scan
from common.checkpoint import save_weights
from common.dicom import read_ct_series
from common.errors import CheckpointError, ConfigError, ImageError
from common.volume import read_nifti

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
    """A constant logit above the threshold marks the whole region of interest, on the scan's grid."""
    folder = scan()
    outcome = segment_scan(folder, read_model(write_model(tmp_path / "m.safetensors", bias=4.0)), tmp_path / "out")
    mask = read_nifti(tmp_path / "out" / "mask.nii.gz")
    series = read_ct_series(folder)
    assert mask.geometry.matches(series.volume.geometry)
    assert mask.array[:, 4:20, 4:20].all()
    assert outcome.volume_ml == pytest.approx(np.count_nonzero(mask.array) * 0.064)
    assert names(tmp_path / "out") == ["mask.nii.gz", "overlay.png", "report.json", "rtstruct.dcm"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["model"], report["volume_ml"]) == ("tiny", round(outcome.volume_ml, 2))
    structures = dcmread(tmp_path / "out" / "rtstruct.dcm")
    assert structures.StructureSetROISequence[0].ROIName == "GTVnx_auto"
    assert structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == series.frame_uid


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
        raise OSError("no space left")

    monkeypatch.setattr("client.segment.write_rtstruct", full_disk)
    with pytest.raises(OSError, match="no space"):
        segment_scan(folder, model, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_model_of_two_images_is_refused(tmp_path, scan, write_model, monkeypatch):
    path = write_model(tmp_path / "m.safetensors")
    model = read_model(path)
    stage1 = model.recipe.stage1
    two = stage1.model_copy(update={"network": stage1.network.model_copy(update={"in_channels": 2})})
    monkeypatch.setattr("client.segment.load_model", lambda *_: {})
    other = replace(model, recipe=model.recipe.model_copy(update={"stage1": two}))
    with pytest.raises(CheckpointError, match="needs 2 images"):
        segment_scan(scan(), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scan_that_is_not_there_is_refused(tmp_path, write_model):
    with pytest.raises(ImageError, match="does not exist"):
        segment_scan(tmp_path / "none", read_model(write_model(tmp_path / "m.safetensors")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
