"""Work on cases of which one may be taken out meanwhile: it begins anew without it, and no result claims it."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from client.cases import Cases, OpenCase
from common.dataset import read_index
from common.errors import ImageError, LabelError, WorkError

log = logging.getLogger("fedgtv.site")
TRIES = 5
T = TypeVar("T")


class CaseRemovedError(Exception):
    """A case that the work rests on is no longer in the site's index."""


def check_still_here(folder: Path, cases: Iterable[OpenCase]) -> None:
    """Returns if the index of `folder` still lists all of `cases`.

    Raises:
        CaseRemovedError: it does not.
        InputError: the index is missing or damaged.
    """
    gone = {case.cached.case_id for case in cases} - {entry.case_id for entry in read_index(folder)}
    if gone:
        raise CaseRemovedError(f"case {min(gone)} was taken out")


def on_cases_that_stay(folder: Path, open_all: Callable[[], Cases], work: Callable[[Cases], T]) -> T:
    """Returns what `work` makes of the cases; of those that are left, where files go while it reads them.

    Args:
        folder: the index's.
        open_all: opens the cases that are there now.
        work: raises CaseRemovedError, or what reading a missing file raises.

    Raises:
        WorkError: cases go every time.
    """
    for _ in range(TRIES):
        cases = open_all()
        try:
            return work(cases)
        except (CaseRemovedError, FileNotFoundError, ImageError, LabelError) as error:
            reason = _whether_removed(folder, cases, error)
            if reason is None:
                raise
            log.warning("%s while it was in use; the work begins anew without it", reason)
    raise WorkError(f"{folder}: files of cases went {TRIES} times while they were in use; see the lines before this")


def _whether_removed(folder: Path, cases: Cases, error: Exception) -> str | None:
    """What to say of a case that has gone; None where the error is about something else."""
    try:
        check_still_here(folder, (*cases.train, *cases.validation, *cases.test))
    except CaseRemovedError as removed:
        return str(removed)
    return f"{error.filename} went" if isinstance(error, FileNotFoundError) else None
