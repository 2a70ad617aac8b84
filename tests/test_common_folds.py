"""Cross-validation: every patient tests exactly once, whoever comes later, and nobody changes sides."""

from hypothesis import given, settings
from hypothesis import strategies as st

from common.dataset import CaseEntry, Part
from common.folds import assign_fold, deal_patients
from common.split import SplitConfig

batches = st.lists(st.lists(st.integers(0, 40), max_size=15), min_size=1, max_size=4)
configs = st.builds(
    SplitConfig, folds=st.integers(2, 6), seed=st.integers(0, 3), validation_fraction=st.sampled_from([0.0, 0.1, 0.5])
)


def entries(patients: list[int]) -> list[CaseEntry]:
    """A case for each number; the same number again is another case of the same patient."""
    return [
        CaseEntry(f"c-{place}", f"p-{patient}", ("ct.nii.gz",), "gtv.nii.gz") for place, patient in enumerate(patients)
    ]


def of_fold(config: SplitConfig, fold: int) -> SplitConfig:
    return config.model_copy(update={"fold": fold})


@settings(deadline=None, max_examples=60)
@given(batches=batches, config=configs)
def test_every_patient_tests_once_and_keeps_their_part_whoever_comes(
    batches: list[list[int]], config: SplitConfig
) -> None:
    """Batches of cases are added one after the other, as imports are; after each, all that holds must still hold."""
    present: list[int] = []
    dealt: dict[str, int] = {}
    parts: dict[int, dict[str, Part]] = {fold: {} for fold in range(1, config.folds + 1)}
    for batch in batches:
        present += batch
        before, dealt = dealt, deal_patients(entries(present), config, dealt)
        assert before.items() <= dealt.items()
        patients = {f"p-{patient}" for patient in present}
        assert dealt.keys() == patients
        for fold, earlier in parts.items():
            parts[fold] = assign_fold(entries(present), of_fold(config, fold), dealt, earlier)
            assert earlier.items() <= parts[fold].items()
            assert parts[fold].keys() == patients
        for patient in patients:
            assert [parts[fold][patient] for fold in parts].count("test") == 1
            assert parts[dealt[patient]][patient] == "test"


@settings(deadline=None, max_examples=60)
@given(patients=st.lists(st.integers(0, 40), max_size=30), config=configs)
def test_a_first_deal_is_even_and_ignores_the_order_of_cases(patients: list[int], config: SplitConfig) -> None:
    dealt = deal_patients(entries(patients), config)
    assert dealt == deal_patients(entries(patients)[::-1], config)
    sizes = [list(dealt.values()).count(part) for part in range(1, config.folds + 1)]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=60)
@given(patients=st.sets(st.integers(0, 40), min_size=1), config=configs)
def test_of_those_who_do_not_test_the_asked_share_validates_and_one_trains(
    patients: set[int], config: SplitConfig
) -> None:
    cases = entries(sorted(patients))
    dealt = deal_patients(cases, config)
    for fold in range(1, config.folds + 1):
        counts = list(assign_fold(cases, of_fold(config, fold), dealt, {}).values())
        others = len(counts) - counts.count("test")
        wanted = int(config.validation_fraction * others + 0.5)
        least = 1 if config.validation_fraction and others > 1 else 0
        assert counts.count("validation") == min(max(wanted, least), max(others - 1, 0))
        assert counts.count("train") >= min(others, 1)


def test_ten_patients_in_five_folds_test_in_pairs() -> None:
    config = SplitConfig(folds=5, validation_fraction=0.25)
    dealt = deal_patients(entries(list(range(10))), config)
    parts = [assign_fold(entries(list(range(10))), of_fold(config, fold), dealt, {}) for fold in range(1, 6)]
    assert [list(each.values()).count("test") for each in parts] == [2] * 5
    assert [list(each.values()).count("validation") for each in parts] == [2] * 5  # a quarter of eight
    assert len({tuple(sorted(p for p in each if each[p] == "validation")) for each in parts}) > 1


def test_patients_whose_cases_are_away_keep_their_part_and_fill_no_other() -> None:
    config = SplitConfig(folds=2, validation_fraction=0.0)
    dealt = deal_patients(entries(list(range(6))), config)
    without = [entry for entry in entries(list(range(6))) if dealt[entry.patient_id] == 2]
    grown = deal_patients([*without, CaseEntry("c-9", "p-9", ("ct.nii.gz",), "gtv.nii.gz")], config, dealt)
    assert grown == dealt | {"p-9": 1}
