"""The split that a site keeps: on disk before it is used, added to, never redrawn, and told when it is damaged."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from client.splits import adopt_split, keep_split, kept_parts
from common.dataset import CaseEntry, split_cases
from common.errors import InputError
from common.settings import fingerprint
from common.split import SplitConfig

CONFIG = SplitConfig()


def cases(*numbers: int) -> list[CaseEntry]:
    return [CaseEntry(f"A-{n:04d}", f"A-{n:04d}", ("ct.nii.gz",), "gtv.nii.gz") for n in numbers]


def files(state: Path) -> list[Path]:
    return sorted((state / "splits").glob("*.json"))


def test_the_first_split_is_the_seeded_one_and_is_written_for_its_owner(tmp_path: Path) -> None:
    split = keep_split(cases(*range(10)), CONFIG, tmp_path / "state")
    assert split == split_cases(cases(*range(10)), CONFIG)
    (path,) = files(tmp_path / "state")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = json.loads(path.read_text())
    assert told["split"] == CONFIG.model_dump()
    assert {patient for patient, part in told["patients"].items() if part == "test"} == {
        case.patient_id for case in split.test
    }


def test_more_cases_are_added_and_the_file_is_left_alone_until_then(tmp_path: Path) -> None:
    first = keep_split(cases(*range(10)), CONFIG, tmp_path)
    (path,) = files(tmp_path)
    before = path.stat().st_ino
    assert keep_split(cases(*range(10)), CONFIG, tmp_path) == first
    assert path.stat().st_ino == before
    more = keep_split(cases(*range(30)), CONFIG, tmp_path)
    for kept, grown in ((first.train, more.train), (first.validation, more.validation), (first.test, more.test)):
        assert set(kept) < set(grown)
    assert more != split_cases(cases(*range(30)), CONFIG)
    assert keep_split(cases(*range(5, 10)), CONFIG, tmp_path).test == tuple(
        case for case in first.test if case in cases(*range(5, 10))
    )


def test_every_configuration_of_a_split_has_its_own(tmp_path: Path) -> None:
    keep_split(cases(*range(10)), CONFIG, tmp_path)
    other = SplitConfig(seed=1)
    assert keep_split(cases(*range(10)), other, tmp_path) == split_cases(cases(*range(10)), other)
    assert len(files(tmp_path)) == 2


def test_what_cannot_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.splits.write_text_atomically", full)
    with pytest.raises(OSError, match="No space"):
        keep_split(cases(1, 2, 3), CONFIG, tmp_path)
    assert not files(tmp_path)
    assert kept_parts(CONFIG, tmp_path) == {}


@pytest.mark.parametrize("text", ["", "{}", '{"split": {}, "patients": {"A-0001": "exam"}}', "[]"])
def test_a_damaged_file_is_named_and_never_drawn_over(tmp_path: Path, text: str) -> None:
    keep_split(cases(1, 2, 3), CONFIG, tmp_path)
    (path,) = files(tmp_path)
    path.write_text(text)
    with pytest.raises(InputError, match=r"damaged.*restore it from a backup") as error:
        keep_split(cases(1, 2, 3), CONFIG, tmp_path)
    assert str(path) in str(error.value)
    assert path.read_text() == text


def test_draws_at_the_same_time_agree_on_every_patient(tmp_path: Path) -> None:
    """A task of the node and an `evaluate` by hand, one of which has seen a later import."""
    imports = [cases(*range(number)) for number in (5, 20, 10, 15) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        splits = list(pool.map(lambda entries: keep_split(entries, CONFIG, tmp_path), imports))
    parts = kept_parts(CONFIG, tmp_path)
    for split in splits:
        assert {parts[case.patient_id] for case in split.train} <= {"train"}
        assert {parts[case.patient_id] for case in split.test} <= {"test"}
        assert {parts[case.patient_id] for case in split.validation} <= {"validation"}


def fold(number: int) -> SplitConfig:
    return SplitConfig(folds=3, fold=number)


def test_over_the_folds_every_case_tests_once_also_after_more_came(tmp_path: Path) -> None:
    first = [keep_split(cases(*range(9)), fold(number), tmp_path) for number in (1, 2, 3)]
    assert [len(split.test) for split in first] == [3, 3, 3]
    grown = [keep_split(cases(*range(20)), fold(number), tmp_path) for number in (1, 2, 3)]
    tested = [case.case_id for split in grown for case in split.test]
    assert sorted(tested) == [case.case_id for case in cases(*range(20))]
    for before, after in zip(first, grown, strict=True):
        assert set(before.test) <= set(after.test)
        assert set(before.train) <= set(after.train)
        assert set(before.validation) <= set(after.validation)


def test_asking_for_folds_moves_nobody_in_the_plain_split(tmp_path: Path) -> None:
    """Its file has the name that it had before there were folds."""
    plain = keep_split(cases(*range(10)), CONFIG, tmp_path)
    (path,) = files(tmp_path)
    assert path.stem == fingerprint({"test_fraction": 0.3, "validation_fraction": 0.1, "seed": 0})
    assert keep_split(cases(*range(10)), SplitConfig(folds=5), tmp_path) == plain
    assert files(tmp_path) == [path]


def test_the_deal_is_adopted_with_the_split(tmp_path: Path) -> None:
    keep_split(cases(*range(6)), fold(1), tmp_path / "node")
    grown = keep_split(cases(*range(12)), fold(1), tmp_path / "node")
    adopt_split(fold(1), tmp_path / "node", tmp_path / "own")
    assert keep_split(cases(*range(12)), fold(1), tmp_path / "own") == grown


def test_the_parts_of_several_sites_are_adopted_side_by_side(tmp_path: Path) -> None:
    """Under names with the site's before them; in every fold the union tests who tests at their own site."""
    together = [replace(case, case_id=f"{site}-{case.case_id}", patient_id=f"{site}/{case.patient_id}")
                for site in ("A", "B") for case in cases(*range(7))]  # fmt: skip
    for config in (CONFIG, fold(1), fold(2)):
        tests = []
        for site, num_first in (("A", 3), ("B", 7)):
            keep_split(cases(*range(num_first)), config, tmp_path / site)
            tests += [f"{site}-{case.case_id}" for case in keep_split(cases(*range(7)), config, tmp_path / site).test]
            adopt_split(config, tmp_path / site, tmp_path / "pool", prefix=f"{site}/")
        assert [case.case_id for case in keep_split(together, config, tmp_path / "pool").test] == tests


def test_a_damaged_deal_is_named(tmp_path: Path) -> None:
    keep_split(cases(1, 2, 3), fold(1), tmp_path)
    (path,) = (tmp_path / "splits").glob("folds-*.json")
    path.write_text("{}")
    with pytest.raises(InputError, match=rf"{path.name}: damaged"):
        keep_split(cases(1, 2, 3), fold(2), tmp_path)
