"""Pre-flight check of a site's cases against each other: duplicates, odd ones out, enough of them for the split."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.case_check import CheckedCase, Facts
from client.finding import Finding
from client.image_check import is_planning_grid, show_mm
from client.splits import kept_parts
from common.dataset import CaseEntry, split_cases
from common.errors import FedgtvError
from common.split import SplitConfig

REMOVE = "remove one with `fedgtv-site remove CASE`"
FEW_CASES = 5
"""Fewer have no usual spacing."""
UNLIKE_FACTOR = 1.5
SAME_SCAN = 0.93
"""Least correlation of thumbnails for `looks like`. The most alike of 100 real patients had 0.49, of 45 phantoms 0.90;
a scan under other noise of SD 8 HU had 0.95 to 0.999. A copy with other slices or voxels can have less: not found."""

Known = tuple[CheckedCase, Facts]


def check_cohort(cases: Sequence[CheckedCase]) -> Iterator[Finding]:
    """Gives findings on cases that repeat or resemble each other too much, and on spacings unlike the others'."""
    known = [(case, case.facts) for case in cases if case.facts is not None]
    yield from _check_copies(known)
    yield from _check_likeness(known)
    yield from _check_spacings(known)
    yield from _check_unlike(known)


def _check_copies(known: Sequence[Known]) -> Iterator[Finding]:
    first: dict[str, CheckedCase] = {}
    for case, facts in known:
        other = first.setdefault(facts.content, case)
        if other.entry.patient_id != case.entry.patient_id:
            what = f"the same image as {other.case_id}, which counts as another patient"
            remedy = f"{REMOVE}: the patient could train and test the same model"
            yield Finding("error", case.case_id, "duplicate", what, remedy)
        elif other is not case:
            remedy = f"{REMOVE}: the patient counts twice"
            yield Finding("warning", case.case_id, "duplicate", f"the same image as {other.case_id}", remedy)


def _check_likeness(known: Sequence[Known]) -> Iterator[Finding]:
    """Gives a warning for every case that looks like an earlier one of another patient."""
    if len(known) < 2:
        return
    likeness: NDArray[np.float64] = np.array(np.corrcoef([facts.thumbnail.ravel() for _, facts in known]))
    for number, (case, facts) in enumerate(known):
        for earlier in np.flatnonzero(likeness[number, :number] > SAME_SCAN):
            other, others = known[int(earlier)]
            if other.entry.patient_id != case.entry.patient_id and others.content != facts.content:
                share = likeness[number, earlier]
                what = f"looks like {other.case_id}, which counts as another patient (correlation {share:.2f})"
                remedy = f"is it one patient under two IDs? {REMOVE}"
                yield Finding("warning", case.case_id, "duplicate", what, remedy)
                break


def _check_spacings(known: Sequence[Known]) -> Iterator[Finding]:
    """Gives a warning for voxels that no planning CT has: one for all cases where most have such."""
    odd = [(case, facts) for case, facts in known if not is_planning_grid(facts.spacing_mm)]
    if len(known) >= FEW_CASES and len(odd) > len(known) / 2:
        shown = show_mm(np.median([facts.spacing_mm for _, facts in odd], axis=0).tolist())
        yield _unusual("cases", f"{len(odd)} of {len(known)} cases have voxels of {shown} mm or so")
        return
    for case, facts in odd:
        yield _unusual(case.case_id, f"voxels of {show_mm(facts.spacing_mm)} mm")


def _unusual(subject: str, what: str) -> Finding:
    remedy = "import the planning CT itself, not a series made from it"
    return Finding("warning", subject, "spacing", f"{what}, unusual for a planning CT", remedy)


def _check_unlike(known: Sequence[Known]) -> Iterator[Finding]:
    if len(known) < FEW_CASES:
        return
    spacings_mm = np.array([facts.spacing_mm for _, facts in known])
    usual_mm = np.median(spacings_mm, axis=0)
    for (case, facts), ratios in zip(known, spacings_mm / usual_mm, strict=True):
        if max(ratios.max(), 1 / ratios.min()) > UNLIKE_FACTOR and is_planning_grid(facts.spacing_mm):
            usual = show_mm(usual_mm.tolist())
            what = f"voxels of {show_mm(facts.spacing_mm)} mm, where this site's cases usually have {usual} mm"
            yield Finding("warning", case.case_id, "spacing", what, "is it the planning CT?")


def check_split(
    entries: Sequence[CaseEntry], split: SplitConfig, work_folder: Path, min_cases: int, left_out: Collection[str] = ()
) -> Iterator[Finding]:
    """Counts the parts as a task of this split would find them; nothing is drawn for good.

    Args:
        entries: all of the site's.
        split: parts them.
        work_folder: keeps earlier parts.
        min_cases: of the site's policy.
        left_out: cases that cannot be prepared: they have a part, and no task sees them.
    """
    try:
        parts = split_cases(entries, split, kept_parts(split, work_folder))
    except FedgtvError as error:
        yield Finding.of("error", "cases", "split", str(error), "restore the file")
        return
    num_train, num_validation, num_test = (
        sum(entry.case_id not in left_out for entry in part) for part in (parts.train, parts.validation, parts.test)
    )
    counts = f"{num_train} to train, {num_validation} to validate, {num_test} to test"
    if left_out:
        counts += f"; {len(left_out)} left out for errors"
    if not num_train and left_out:
        yield Finding("error", "cases", "split", counts, "mend what the errors name, and import again")
    elif not num_train:
        yield Finding("error", "cases", "split", counts, "import cases with contours")
    elif num_train < min_cases:
        remedy = f"fewer than {min_cases} training cases: statistics stay here (policy.min_cases)"
        yield Finding("warning", "cases", "split", counts, remedy)
    elif num_test < min_cases:
        remedy = f"fewer than {min_cases} test cases: metrics stay here (policy.min_cases)"
        yield Finding("warning", "cases", "split", counts, remedy)
    else:
        yield Finding("ok", "cases", "split", counts)
