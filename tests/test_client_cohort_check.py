"""Cases against each other: copies, look-alikes, odd spacings, and the split's counts."""

import numpy as np
import pytest

from client.case_check import CheckedCase, Facts
from client.cohort_check import check_cohort, check_split
from common.dataset import CaseEntry
from common.split import SplitConfig


def entry(number, patient=None):
    name = f"A-{number:04d}"
    return CaseEntry(name, patient or name, (f"{name}.nii.gz",), f"{name}-label.nii.gz")


def case(number, patient=None, content=None, seed=None, noise=0.0, spacing_mm=(3.0, 1.0, 1.0)):
    rng = np.random.default_rng(seed or number)
    thumbnail = rng.normal(size=(8, 8, 8)) + noise * np.random.default_rng(99).normal(size=(8, 8, 8))
    facts = Facts(spacing_mm, 1000, 10, content or f"hash {number}", thumbnail.astype(np.float32))
    return CheckedCase(entry(number, patient), (), b"", facts)


def told(*cases):
    return [(f.severity, f.subject, f.check, f.what) for f in check_cohort(cases)]


def test_different_cases_have_no_finding():
    assert told(*(case(number) for number in range(1, 7))) == []
    assert told() == []
    assert told(case(1)) == []


def test_one_image_under_two_patients_is_an_error_under_one_a_warning():
    same = {"content": "same", "seed": 5}
    ((severity, subject, check, what),) = told(case(1, **same), case(2), case(3, **same))
    assert (severity, subject, check) == ("error", "A-0003", "duplicate")
    assert "the same image as A-0001, which counts as another patient" in what
    twice = told(case(1, "p", **same), case(2, "p", **same))
    assert twice == [("warning", "A-0002", "duplicate", "the same image as A-0001")]


def test_a_look_alike_is_a_warning_unless_it_is_the_patients_own():
    ((severity, subject, check, what),) = told(case(1), case(2), case(3, seed=1, noise=0.1))
    assert (severity, subject, check) == ("warning", "A-0003", "duplicate")
    assert "looks like A-0001" in what
    assert told(case(1, "p"), case(3, "p", seed=1, noise=0.1)) == []
    assert told(case(1), case(3, seed=1, noise=2.0)) == []


def test_a_spacing_unlike_the_others_is_told_from_five_cases_on():
    usual = [case(number) for number in range(1, 5)]
    odd = case(9, spacing_mm=(5.0, 1.0, 1.0))
    ((severity, subject, check, what),) = told(*usual, odd)
    assert (severity, subject, check) == ("warning", "A-0009", "spacing")
    assert "5 x 1 x 1 mm, where this site's cases usually have 3 x 1 x 1 mm" in what
    assert told(*usual[:3], odd) == []
    assert told(*usual, case(9, spacing_mm=(3.0, 0.7, 0.7))) == []


def test_voxels_of_no_planning_ct_are_told_once_where_most_cases_have_them():
    coarse = [case(number, spacing_mm=(3.0, 3.9, 3.9)) for number in range(1, 5)]
    assert [line[:3] for line in told(*coarse[:2])] == [
        ("warning", "A-0001", "spacing"),
        ("warning", "A-0002", "spacing"),
    ]
    ((severity, subject, check, what),) = told(*coarse, case(5, spacing_mm=(3.0, 3.0, 3.0)))
    assert (severity, subject, check) == ("warning", "cases", "spacing")
    assert what == "5 of 5 cases have voxels of 3 x 3.9 x 3.9 mm or so, unusual for a planning CT"


def test_a_sagittal_stack_is_measured_along_the_patients_axes():
    """Facts hold spacings turned to LPS, so that 9 mm between a patient's columns are told as such."""
    ((_, _, _, what),) = told(case(1, spacing_mm=(1.0, 2.0, 9.0)))
    assert "voxels of 1 x 2 x 9 mm" in what


def test_cases_without_image_are_left_out():
    assert told(case(1), CheckedCase(entry(2), ())) == []


@pytest.mark.parametrize(
    ("num_cases", "min_cases", "severity"), [(0, 1, "error"), (3, 1, "ok"), (3, 2, "warning"), (20, 3, "ok")]
)
def test_the_split_counts(tmp_path, num_cases, min_cases, severity):
    entries = [entry(number) for number in range(1, num_cases + 1)]
    (finding,) = check_split(entries, SplitConfig(), tmp_path, min_cases)
    assert (finding.severity, finding.check) == (severity, "split")
