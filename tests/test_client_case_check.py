"""Pre-flight check of a case: all of its findings, and the facts that comparing cases needs."""

from dataclasses import replace

import numpy as np
import pytest

from client.case_check import cached_bytes, check_case, content_hash, thumbnail
from common.cache import CaseCache
from common.dataset import read_index
from common.preprocess import find_patient, prepare
from common.recipe import PreprocessConfig, RoiConfig
from common.volume import Geometry, Volume, read_nifti, to_lps, write_nifti

CONFIG = PreprocessConfig(spacing_mm=(4.0, 4.0, 4.0), roi=RoiConfig(crop_at_neck=False))


@pytest.fixture
def cases(tmp_path, make_site):
    return make_site(tmp_path / "A", num_cases=1).parent / "cases"


def checks(cases, config=CONFIG, entry=None, num_images=None):
    entry = entry or read_index(cases)[0]
    found = check_case(cases, entry, config, num_images or len(entry.images)).findings
    return {(f.severity, f.check) for f in found if f.check != "case"}


def told(cases, entry=None):
    """The line that says what the case is."""
    (finding,) = (f for f in check_case(cases, entry or read_index(cases)[0], CONFIG, 1).findings if f.check == "case")
    return finding.severity, finding.what


def rewrite(path, change, **geometry):
    old = read_nifti(path)
    write_nifti(Volume(change(old.array), replace(old.geometry, **geometry)), path)


def test_facts_of_a_good_case(cases):
    case = check_case(cases, read_index(cases)[0], CONFIG, 1)
    assert [(f.severity, f.check) for f in case.findings] == [("ok", "case")]
    assert (case.facts.spacing_mm, case.facts.voxels) == ((4.0, 4.0, 4.0), 16 * 24 * 24)
    assert told(cases) == ("ok", "target of 4.1 ml on 4 slices; image of 16 slices of 4 x 4 x 4 mm")
    assert case.facts.thumbnail.shape == (32, 32, 32)
    assert case.picture.startswith(b"\xff\xd8")


def test_cached_bytes_are_those_on_disk(cases, tmp_path):
    (entry,) = read_index(cases)
    cached = CaseCache(tmp_path / "cache", CONFIG).open(cases, entry)
    arrays = sum(getattr(cached, name).nbytes for name in ("image", "body", "label"))
    images = [read_nifti(cases / name) for name in entry.images]
    assert cached_bytes(prepare(images, read_nifti(cases / entry.label), CONFIG)) == arrays
    assert check_case(cases, entry, CONFIG, 1).facts.cached_bytes == arrays


@pytest.mark.parametrize(
    ("name", "change", "geometry", "expected"),
    [
        ("label", np.zeros_like, {}, ("error", "label-empty")),
        ("label", lambda a: a, {"origin_mm": (0.0, 0.0, 0.0)}, ("error", "label-grid")),
        ("label", lambda a: np.roll(a, -6, 2), {}, ("error", "label-outside")),
        ("image", lambda a: a + np.int16(1000), {}, ("error", "hu")),
        ("image", lambda a: np.full_like(a, -1000), {}, ("error", "hu")),
    ],
)
def test_each_fault_is_found_in_files(cases, name, change, geometry, expected):
    rewrite(cases / f"A-0001/{name}.nii.gz", change, **geometry)
    assert checks(cases) == {expected}


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("image", lambda a: a + np.int16(1000), "target of 4.1 ml on 4 slices; image of 16 slices of 4 x 4 x 4 mm"),
        ("label", lambda a: np.roll(a, -6, 2), "target of 4.1 ml on 4 slices; image of 16 slices of 4 x 4 x 4 mm"),
        ("label", np.zeros_like, "image of 16 slices of 4 x 4 x 4 mm"),
    ],
)
def test_what_a_case_is_stands_beside_its_faults(cases, name, change, expected):
    rewrite(cases / f"A-0001/{name}.nii.gz", change)
    assert told(cases) == ("info", expected)


def test_a_second_image_is_told_with_its_slices_for_it_is_not_drawn(cases):
    (entry,) = read_index(cases)
    first = read_nifti(cases / entry.images[0])
    second = Volume(first.array[2:, :, ::2].copy(), Geometry((14, 24, 12), (4.0, 4.0, 8.0), (-46.0, -46.0, 8.0)))
    write_nifti(second, cases / "second.nii.gz")
    two = replace(entry, images=(*entry.images, "second.nii.gz"))
    first_told = "target of 4.1 ml on 4 slices; image of 16 slices of 4 x 4 x 4 mm"
    assert told(cases, two) == ("ok", f"{first_told}; image 2, not drawn: 14 slices of 4 x 4 x 8 mm")


def test_files_that_are_none_are_errors_of_the_case(cases):
    (entry,) = read_index(cases)
    assert ("error", "label-empty") in checks(cases, entry=replace(entry, label=None))
    (cases / entry.label).write_text("x")
    assert ("error", "file") in checks(cases)
    (cases / entry.images[0]).unlink()
    case = check_case(cases, entry, CONFIG, 1)
    assert ([f.check for f in case.findings], case.picture, case.facts) == (["file"], None, None)


def test_what_only_preparation_refuses_is_told(cases):
    """A target that vanishes on a grid of 60 mm, and a second image elsewhere."""
    assert ("error", "preparation") in checks(cases, PreprocessConfig(spacing_mm=(60.0,) * 3, roi=CONFIG.roi))
    (entry,) = read_index(cases)
    hu = np.where(np.arange(64).reshape(4, 4, 4) < 32, -1000, 400).astype(np.int16)
    write_nifti(Volume(hu, Geometry(hu.shape, (1.0, 1.0, 1.0), (9e3, 0.0, 0.0))), cases / "second.nii.gz")
    two = replace(entry, images=(*entry.images, "second.nii.gz"))
    assert ("error", "preparation") in checks(cases, entry=two)


def test_a_second_image_that_is_no_ct_is_told_with_its_number(cases):
    """A contrast image without rescale, whose lowest value is 0."""
    (entry,) = read_index(cases)
    first = read_nifti(cases / entry.images[0])
    write_nifti(Volume(first.array + np.int16(1024), first.geometry), cases / "second.nii.gz")
    two = replace(entry, images=(*entry.images, "second.nii.gz"))
    finding, _ = check_case(cases, two, CONFIG, 2).findings
    assert (finding.severity, finding.check, finding.what) == ("error", "hu", "image 2: values 24 to 1424 are not HU")


def test_a_fault_of_our_own_does_not_stop_the_others(cases, monkeypatch, caplog):
    monkeypatch.setattr("client.case_check.check_range", lambda *_: 1 / 0)
    (finding,) = check_case(cases, read_index(cases)[0], CONFIG, 1).findings
    assert (finding.severity, "ZeroDivisionError" in finding.what) == ("error", True)
    assert "could not be checked" in caplog.text


def test_the_hash_is_that_of_the_patient_not_of_the_file():
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 2000, (4, 5, 6)).astype(np.int16)
    volume = Volume(hu, Geometry(hu.shape, (3.0, 1.0, 1.0)))
    upside_down = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    flipped = Volume(np.ascontiguousarray(hu[:, ::-1]), Geometry(hu.shape, (3.0, 1.0, 1.0), direction=upside_down))
    assert content_hash(to_lps(flipped).array) == content_hash(to_lps(volume).array)
    assert content_hash(hu.astype(np.float32) + 0.25) == content_hash(hu)
    assert content_hash(hu + 1) != content_hash(hu)
    assert content_hash(hu.reshape(5, 4, 6)) != content_hash(hu)


def test_thumbnails_of_one_scan_agree_and_those_of_two_do_not():
    """Two bodies of equal outline, with other insides; one of them again under noise."""
    rng = np.random.default_rng(1)

    def scan(seed):
        hu = np.full((32, 64, 64), -1000, np.float32)
        inside = np.kron(np.random.default_rng(seed).integers(-150, 200, (8, 10, 10)), np.ones((4, 4, 4)))
        hu[:, 12:52, 12:52] = inside
        return hu

    def of(hu):
        volume = Volume(hu.astype(np.float32), Geometry(hu.shape, (3.0, 3.0, 3.0)))
        return thumbnail(find_patient(volume, RoiConfig(crop_at_neck=False))).ravel()

    one, other = scan(1), scan(2)
    noisy = one + rng.normal(0, 8, one.shape)
    assert np.corrcoef(of(one), of(noisy))[0, 1] > 0.99
    assert np.corrcoef(of(one), of(other))[0, 1] < 0.5


def test_a_finding_far_from_the_target_has_whole_planes_beside_it(cases, monkeypatch):
    """The body fills the image's rows from side to side: only the whole plane shows it."""
    drawn = []
    monkeypatch.setattr("client.case_check.overlay_figure", lambda *arguments: drawn.append(arguments[-1]))
    monkeypatch.setattr("client.case_check.as_jpeg", lambda _: b"")
    check_case(cases, read_index(cases)[0], CONFIG, 1)
    rewrite(cases / "A-0001/image.nii.gz", lambda hu: np.where(np.arange(24)[:, None] // 10 == 1, 40, hu))
    assert ("warning", "field-of-view") in checks(cases)
    assert drawn == [False, True]


def test_one_slice_is_told_as_one(cases):
    rewrite(cases / "A-0001/label.nii.gz", lambda label: label * (np.arange(16)[:, None, None] == 7).astype(np.uint8))
    assert told(cases)[1] == "target of 1.0 ml on 1 slice; image of 16 slices of 4 x 4 x 4 mm"


def test_a_message_that_holds_its_remedy_gets_no_second_one(cases):
    """A damaged file says what to do; a lost one does not, and is told to be imported again."""
    (cases / "A-0001/image.nii.gz").write_bytes(b"x")
    (finding,) = check_case(cases, read_index(cases)[0], CONFIG, 1).findings
    assert (finding.check, finding.remedy) == ("file", "export it again")
    assert "again" not in finding.what
