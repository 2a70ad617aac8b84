"""Many scans: reports, resuming, and failures that stay with their scan."""

import json

import numpy as np
import pytest
import torch

from client import segment
from client.model_package import read_model
from client.scans import find_scans
from client.segment import Segmenter
from client.segment_many import segment_all, segment_one
from common.errors import ImageError
from common.segmentation import Segmentation

torch.set_num_threads(1)


@pytest.fixture
def segmenter(tmp_path, write_model):
    return Segmenter(read_model(write_model(tmp_path / "m.safetensors", bias=4.0)), "cpu")


@pytest.fixture
def scans(tmp_path, write_ct, tiny_hu):
    for name in ("a", "b"):
        write_ct(tmp_path / "scans" / name, tiny_hu, spacing_mm=(4.0, 4.0, 4.0))
    return find_scans(tmp_path / "scans")


def statuses(scans, segmenter, out, **options):
    return [report.status for report in segment_all(scans, segmenter, out, **options)]


def test_what_is_done_is_done_again_only_if_something_changed(tmp_path, scans, segmenter, write_model):
    out, counts = tmp_path / "out", []
    assert statuses(scans, segmenter, out, progress=lambda *each: counts.append(each)) == ["done", "done"]
    assert counts == [(0, 2), (1, 2), (2, 2)]
    first, again = (list(segment_all(scans, segmenter, out)) for _ in range(2))
    assert [report.status for report in first] == ["unchanged", "unchanged"]
    assert first == again
    assert [path.name for path in first[0].files] == ["mask.nii.gz", "overlay.png", "rtstruct.dcm", "report.json"]
    (out / "a" / "rtstruct.dcm").unlink()
    (out / "b" / "report.json").write_text("{")
    assert statuses(scans, segmenter, out) == ["done", "done"]
    assert statuses(scans, segmenter, out, again=True) == ["done", "done"]
    other = Segmenter(read_model(write_model(tmp_path / "other.safetensors", bias=5.0)), "cpu")
    assert statuses(scans, other, out) == ["done", "done"]


def test_a_volume_is_the_same_when_nothing_is_done(tmp_path, scans, segmenter, monkeypatch):
    """Seven voxels of 0.064 ml are 0.4 ml; rounded to 0.45 in between, they were 0.5 the second time."""
    mask = np.zeros((16, 24, 24), bool)
    mask[8, 8, 8:15] = True
    monkeypatch.setattr("client.segment.segment", lambda *_: Segmentation(mask, mask.astype(np.float32), ()))
    done, unchanged = (segment_one(scans[0], segmenter, tmp_path / "out") for _ in range(2))
    assert (done.status, unchanged.status) == ("done", "unchanged")
    assert done.volume_ml == unchanged.volume_ml == pytest.approx(0.448)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["volume_ml"] == done.volume_ml


def test_a_result_that_was_stopped_while_it_took_its_place_is_made_anew(
    tmp_path, scans, segmenter, write_model, monkeypatch
):
    """Else the other model's mask would lie beside the first one's report, and pass for the first one's."""
    out, moved, put = tmp_path / "out", [], segment.put_in_place
    segment_one(scans[0], segmenter, out)
    other = Segmenter(read_model(write_model(tmp_path / "other.safetensors", bias=5.0)), "cpu")

    def stop_before_the_report(unfinished, path):
        if path.name == "report.json":
            raise KeyboardInterrupt
        moved.append(path.name)
        put(unfinished, path)

    with monkeypatch.context() as patched:
        patched.setattr(segment, "put_in_place", stop_before_the_report)
        with pytest.raises(KeyboardInterrupt):
            segment_one(scans[0], other, out)
    assert moved == ["mask.nii.gz", "overlay.png", "rtstruct.dcm"]
    assert segment_one(scans[0], segmenter, out).status == "done"


def test_results_are_for_their_owner_alone(tmp_path, scans, segmenter):
    list(segment_all(scans, segmenter, tmp_path / "new" / "out"))
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in made} == {0}
    assert len(made) == 2 + 2 * 5


def test_a_changed_scan_and_another_release_are_done_again(tmp_path, scans, segmenter, monkeypatch):
    out = tmp_path / "out"
    segment_one(scans[0], segmenter, out)
    assert segment_one(scans[0], segmenter, out).status == "unchanged"
    assert segment_one(scans[1], segmenter, out).status == "done"
    monkeypatch.setattr("client.segment.release", lambda: "fedgtv 99")
    assert segment_one(scans[1], segmenter, out).status == "done"


def test_a_scan_that_fails_is_reported_and_the_next_is_done(tmp_path, scans, segmenter, monkeypatch, caplog):
    for path in sorted((tmp_path / "scans" / "a").iterdir())[1:]:
        path.unlink()
    scans = find_scans(tmp_path / "scans")
    failed, done = segment_all(scans, segmenter, tmp_path / "out")
    assert (failed.status, done.status) == ("failed", "done")
    assert "the only slice of its series" in failed.reason
    assert failed.as_json() == {"scan": "a", "status": "failed", "reason": failed.reason}
    assert json.loads(json.dumps(done.as_json()))["volume_ml"] == done.volume_ml
    with pytest.raises(ImageError, match="the only slice"):
        segment_one(scans[0], segmenter, tmp_path / "alone")
    monkeypatch.setattr("client.segment.prepare", lambda *_: 1 / 0)
    (_, ours) = segment_all(scans, segmenter, tmp_path / "out", again=True)
    assert ours.reason == "ZeroDivisionError: division by zero"
    assert "scan b failed" in caplog.text
