"""Index and split of a cases folder."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dataset import CaseEntry, Part, assign_patients, read_index, split_cases, write_index
from common.errors import InputError
from common.split import SplitConfig


def entry(number: int, patient: str | None = None, label: str | None = "gtv.nii.gz") -> CaseEntry:
    return CaseEntry(
        f"case-{number:03}", patient or f"p{number}", ("ct.nii.gz",), label, {"spacing_mm": [3.0, 1.0, 1.0]}
    )


def test_an_index_comes_back_as_it_was_written_ordered_by_case(tmp_path: Path) -> None:
    entries = (entry(1), entry(2, label=None))
    write_index(tmp_path / "cases", reversed(entries))
    assert read_index(tmp_path / "cases") == entries
    assert [path.name for path in (tmp_path / "cases").iterdir()] == ["cases.json"]


CASE = {"case_id": "a", "patient_id": "p", "images": ["ct.nii.gz"], "label": None, "info": {}}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not JSON"),
        ("[]", "not an index"),
        ('{"version": 2, "cases": []}', "not an index"),
        (json.dumps({"version": 1, "cases": [CASE, CASE]}), "'a' stands twice"),
        (json.dumps({"version": 1, "cases": [CASE | {"images": []}]}), "has no image"),
        (json.dumps({"version": 1, "cases": [CASE | {"images": ["../ct.nii.gz"]}]}), "inside the index's folder"),
        (json.dumps({"version": 1, "cases": [CASE | {"label": "/gtv.nii.gz"}]}), "inside the index's folder"),
        (json.dumps({"version": 1, "cases": [CASE | {"case_id": "a/b"}]}), "case_id"),
        (json.dumps({"version": 1, "cases": [CASE | {"name": "x"}]}), "name"),
    ],
)
def test_a_bad_index_is_refused_by_its_name(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "cases.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_index(tmp_path)
    assert str(tmp_path / "cases.json") in str(error.value)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_index_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="import cases"):
        read_index(tmp_path)


def test_an_index_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stands twice"):
        write_index(tmp_path, [entry(1), entry(1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("num_patients", "config", "sizes"),
    [
        (10, SplitConfig(), (6, 1, 3)),
        (50, SplitConfig(), (31, 4, 15)),
        (3, SplitConfig(), (1, 1, 1)),
        (3, SplitConfig(test_fraction=1.0, validation_fraction=1.0), (1, 1, 1)),
        (2, SplitConfig(), (1, 0, 1)),
        (2, SplitConfig(test_fraction=0.0), (1, 1, 0)),
        (1, SplitConfig(), (1, 0, 0)),
        (0, SplitConfig(), (0, 0, 0)),
        (10, SplitConfig(validation_fraction=0.0), (7, 0, 3)),
        (10, SplitConfig(test_fraction=0.0, validation_fraction=0.0), (10, 0, 0)),
    ],
)
def test_sizes_of_the_parts(num_patients: int, config: SplitConfig, sizes: tuple[int, int, int]) -> None:
    split = split_cases([entry(number) for number in range(num_patients)], config)
    assert (len(split.train), len(split.validation), len(split.test)) == sizes


@given(
    patients=st.lists(st.integers(0, 12), max_size=30),
    seed=st.integers(0, 5),
    test=st.floats(0, 1),
    validation=st.floats(0, 1),
    order=st.randoms(),
)
def test_a_split_keeps_patients_whole_and_ignores_order(
    patients: list[int], seed: int, test: float, validation: float, order: random.Random
) -> None:
    entries = [entry(number, f"p{patient}") for number, patient in enumerate(patients)]
    config = SplitConfig(test_fraction=test, validation_fraction=validation, seed=seed)
    split = split_cases(entries, config)
    parts = [split.train, split.validation, split.test]
    assert sorted(e.case_id for part in parts for e in part) == [e.case_id for e in entries]
    held = [{e.patient_id for e in part} for part in parts]
    assert len(set.union(*held)) == sum(len(part) for part in held)
    if len(set(patients)) >= 3:
        assert [bool(part) for part in parts] == [True, validation > 0, test > 0]
    order.shuffle(entries)
    assert split_cases(entries, config) == split


def test_another_seed_splits_otherwise_and_unlabelled_cases_are_left_out() -> None:
    entries = [entry(number) for number in range(20)]
    tests = {split_cases(entries, SplitConfig(seed=seed)).test for seed in range(5)}
    assert len(tests) > 1
    assert entry(99, label=None) not in split_cases([*entries, entry(99, label=None)], SplitConfig()).train


TWENTIETHS = st.integers(0, 20).map(lambda twentieth: twentieth / 20)
CONFIGS = st.builds(SplitConfig, test_fraction=TWENTIETHS, validation_fraction=TWENTIETHS, seed=st.integers(0, 3))


def part_sizes(parts: dict[str, Part]) -> list[int]:
    return [list(parts.values()).count(part) for part in ("train", "validation", "test")]


@given(config=CONFIGS, batches=st.lists(st.integers(0, 6), max_size=8))
def test_no_patient_changes_sides_and_batches_end_in_the_sizes_of_one_draw(
    config: SplitConfig, batches: list[int]
) -> None:
    entries: list[CaseEntry] = []
    parts: dict[str, Part] = {}
    for size in batches:
        entries += [entry(number) for number in range(len(entries), len(entries) + size)]
        later = assign_patients(entries, config, parts)
        assert later.items() >= parts.items()
        assert later.keys() == {each.patient_id for each in entries}
        parts = later
    assert part_sizes(parts) == part_sizes(assign_patients(entries, config))


@given(config=CONFIGS, imports=st.lists(st.sets(st.integers(0, 15)), max_size=8), order=st.randoms())
def test_cases_that_go_and_come_back_find_their_old_part(
    config: SplitConfig, imports: list[set[int]], order: random.Random
) -> None:
    parts: dict[str, Part] = {}
    for numbers in imports:
        entries = [entry(number) for number in numbers]
        later = assign_patients(entries, config, parts)
        assert later.items() >= parts.items()
        if any(each.patient_id not in parts for each in entries):
            assert "train" in {later[each.patient_id] for each in entries}
        order.shuffle(entries)
        assert assign_patients(entries, config, parts) == later == assign_patients(entries, config, later)
        parts = later


def test_new_patients_make_up_for_held_out_ones_that_were_removed() -> None:
    parts = assign_patients([entry(number) for number in range(10)], SplitConfig())
    trainers = [entry(number) for number in range(10) if parts[f"p{number}"] == "train"]
    later = assign_patients([*trainers, *(entry(number) for number in range(10, 14))], SplitConfig(), parts)
    assert part_sizes({patient: later[patient] for patient in later if patient not in parts}) == [0, 1, 3]


def test_a_first_draw_stays_what_it_was() -> None:
    """The files of earlier runs hold no split: their cases must part as they did when those runs trained."""
    split = split_cases([entry(number) for number in range(12)], SplitConfig(seed=3))
    assert [each.patient_id for each in split.test] == ["p1", "p3", "p7", "p8"]
    assert [each.patient_id for each in split.validation] == ["p9"]
