"""The cache of preprocessed cases: what it keys, maps, and makes again."""

import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common import cache as cache_module
from common.cache import CachedCase, CaseCache, load_case, store_case
from common.dataset import CaseEntry
from common.errors import InputError
from common.fitness import prepare_fit
from common.preprocess import PreparedCase, PreprocessRecord
from common.recipe import PreprocessConfig
from common.volume import Geometry, Volume, read_nifti, write_nifti

LABELLED = CaseEntry("case-001", "p1", ("ct.nii.gz",), "gtv.nii.gz")
CONFIG = PreprocessConfig(spacing_mm=(3.0, 2.0, 2.0))


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder with one case: a cylinder of water in air with a block of target."""
    _, y, x = np.mgrid[:20, :48, :48]
    hu = np.where((y - 24) ** 2 + (x - 24) ** 2 < 18**2, 40, -1000).astype(np.int16)
    hu[:, 24, 30:33] = 400
    label = np.zeros(hu.shape, np.uint8)
    label[14:17, 20:26, 22:28] = 1
    geometry = Geometry(hu.shape, (3.0, 4.0, 4.0))
    folder = tmp_path / "cases"
    folder.mkdir()
    write_nifti(Volume(hu, geometry), folder / "ct.nii.gz")
    write_nifti(Volume(label, geometry), folder / "gtv.nii.gz")
    return folder


def test_a_cached_case_is_what_preprocessing_made(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PreparedCase] = []

    def recorded(*args: object) -> PreparedCase:
        made.append(prepare_fit(*args))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(cache_module, "prepare_fit", recorded)
    cache = CaseCache(tmp_path / "cache", CONFIG)
    first, again = cache.open(cases, LABELLED), cache.open(cases, LABELLED)
    assert len(made) == 1
    prepared = made[0]
    assert prepared.label is not None
    for case in (first, again):
        assert case.image.dtype == np.int16
        np.testing.assert_array_equal(case.image, np.rint(prepared.image))
        np.testing.assert_array_equal(case.body, prepared.body)
        np.testing.assert_array_equal(case.label, prepared.label)
        np.testing.assert_array_equal(case.foreground_voxels, np.argwhere(prepared.label))
        assert case.record == prepared.record
        assert case.shape == case.image.shape[1:]
        np.testing.assert_allclose(case.centroid, np.argwhere(prepared.label).mean(axis=0))
    assert not first.image.flags.writeable
    assert [path.name for path in cache.folder.iterdir()] == [first.folder.name]


@pytest.fixture
def whole(cases: Path, tmp_path: Path) -> CachedCase:
    return CaseCache(tmp_path / "cache", CONFIG).open(cases, LABELLED)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are listed on Linux alone")
def test_a_file_is_open_only_while_its_array_is_in_use(whole: CachedCase) -> None:
    before = len(os.listdir("/proc/self/fd"))
    image, body = whole.image, whole.body
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del image, body
    assert len(os.listdir("/proc/self/fd")) == before


def test_nobody_else_may_read_the_cache(cases: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        CaseCache(tmp_path / "state" / "cache", CONFIG).open(cases, LABELLED)
    finally:
        os.umask(before)
    made = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert len(made) == 10
    assert [path for path in made if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)] == []


FILES = ["image.npy", "body.npy", "label.npy", "foreground.npy", "record.json", "checksums.json"]


@pytest.mark.parametrize("damage", ["remove", "truncate", "flip"])
def test_damage_to_any_file_is_seen(whole: CachedCase, damage: str) -> None:
    for path in (whole.folder / name for name in FILES):
        content = path.read_bytes()
        path.unlink()
        if damage != "remove":
            flipped = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
            path.write_bytes(content[: len(content) // 2] if damage == "truncate" else flipped)
        assert load_case(whole.folder, LABELLED) is None
        path.write_bytes(content)
        assert load_case(whole.folder, LABELLED) is not None


@pytest.mark.parametrize("record", ["{}", "[]", '{"spacing_mm": 3}'])
def test_a_record_of_another_shape_is_no_case(whole: CachedCase, record: str) -> None:
    """As an earlier release may have left it, with its own checksums."""
    (whole.folder / "record.json").write_text(record)
    checksums = json.loads((whole.folder / "checksums.json").read_text())
    checksums["record.json"] = zlib.crc32(record.encode())
    (whole.folder / "checksums.json").write_text(json.dumps(checksums))
    assert load_case(whole.folder, LABELLED) is None


def test_a_damaged_case_is_made_again(whole: CachedCase, cases: Path, tmp_path: Path) -> None:
    contents = {name: (whole.folder / name).read_bytes() for name in FILES}
    (whole.folder / "image.npy").write_bytes(contents["image.npy"][:-100])
    again = CaseCache(tmp_path / "cache", CONFIG).open(cases, LABELLED)
    assert {name: (again.folder / name).read_bytes() for name in FILES} == contents


def test_a_changed_file_or_recipe_makes_the_case_again(cases: Path, tmp_path: Path) -> None:
    cache = CaseCache(tmp_path / "cache", CONFIG)
    old = cache.open(cases, LABELLED).folder
    os.utime(cases / "gtv.nii.gz", ns=(1, 1))
    new = cache.open(cases, LABELLED).folder
    assert new != old
    assert not old.exists()
    other = CaseCache(tmp_path / "cache", PreprocessConfig(spacing_mm=(3.0, 2.5, 2.5))).open(cases, LABELLED).folder
    assert other.parent != new.parent
    assert new.exists()


def test_a_case_without_a_label_has_no_target(cases: Path, tmp_path: Path) -> None:
    case = CaseCache(tmp_path / "cache", CONFIG).open(cases, replace(LABELLED, label=None))
    assert case.label is None
    assert case.foreground_voxels.shape == (0, 3)
    assert case.centroid == tuple((n - 1) / 2 for n in case.shape)


def test_a_case_whose_file_is_missing_is_refused(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.nii\.gz: cannot be read .* case-001"):
        CaseCache(tmp_path / "cache", CONFIG).open(cases, replace(LABELLED, images=("gone.nii.gz",)))


def test_arrays_are_mapped_as_they_lie_in_memory(cases: Path, tmp_path: Path) -> None:
    """An array that comes column by column is stored so, and read no other way."""
    volumes = [read_nifti(cases / name) for name in ("ct.nii.gz", "gtv.nii.gz")]
    prepared = prepare_fit(volumes[:1], volumes[1], CONFIG)
    turned = replace(prepared, image=np.asfortranarray(prepared.image), body=np.asfortranarray(prepared.body))
    case = store_case(tmp_path / "case", LABELLED, turned)
    np.testing.assert_array_equal(case.image, np.rint(prepared.image))
    np.testing.assert_array_equal(case.body, prepared.body)
    np.testing.assert_array_equal(case.label, prepared.label)
    with pytest.raises(ValueError, match="read-only"):
        case.image[0, 0, 0, 0] = 0


def test_what_another_process_made_meanwhile_is_taken(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CaseCache(tmp_path / "cache", CONFIG)
    theirs: list[int] = []

    def prepare_while_another_does(*args: object) -> PreparedCase:
        monkeypatch.setattr(cache_module, "prepare_fit", prepare_fit)
        theirs.append(cache.open(cases, LABELLED).folder.stat().st_ino)
        return prepare_fit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "prepare_fit", prepare_while_another_does)
    assert [cache.open(cases, LABELLED).folder.stat().st_ino] == theirs


def test_the_record_survives_json(cases: Path, tmp_path: Path) -> None:
    record = CaseCache(tmp_path / "cache", CONFIG).open(cases, LABELLED).record
    assert PreprocessRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
