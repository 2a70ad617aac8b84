"""Taking cases out on purpose: files, cache and the line in the index go, and an import does not bring them back."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from client.case_store import CaseStore, opened
from client.cases import CACHE, OWN
from client.kept_results import RESULTS
from client.round_checkpoint import FOLDER as ROUNDS
from client.round_checkpoint import forget_rounds
from common.cache import forget_case
from common.dataset import INDEX_NAME
from common.errors import InputError, WorkError
from common.site_config import SiteConfig


@dataclass(frozen=True)
class CasePlaces:
    """Where a site keeps what was made of its cases."""

    site: str
    cases: Path
    caches: tuple[Path, ...]
    """Where prepared cases lie, and what was measured of them: below each, by the case's name."""
    rounds: Path
    """What is kept of a round of training under way: weights that the cases had a part in."""
    page: Path
    """The check's pictures of all cases."""

    @classmethod
    def of(cls, site: SiteConfig, folder: Path, page: Path) -> "CasePlaces":
        """Returns those of `site`, whose relative paths start at `folder`."""
        works = (folder / site.work, folder / site.state / OWN)
        caches = tuple(work / name for work in works for name in (CACHE, RESULTS))
        return cls(site.site, folder / site.cases, caches, folder / site.work / ROUNDS, page)


def check_removable(places: CasePlaces, case_ids: Sequence[str]) -> None:
    """Raises InputError unless all of `case_ids` are, or were, cases of the site."""
    store = _store(places)
    _check_known(case_ids, {*store.entries, *_pseudonyms(store)}, places)


def gone(places: CasePlaces, case_ids: Sequence[str]) -> tuple[str, ...]:
    """Returns those of `case_ids` that were taken out before, and of which nothing is left in the cases' folder."""
    store = _store(places)
    removed = {known.case_id for known in store.pseudonyms.cases.values() if known.removed}
    left = {*store.entries, *(path.name for path in places.cases.iterdir())}
    return tuple(case_id for case_id in case_ids if case_id in removed - left)


def remove_cases(places: CasePlaces, case_ids: Sequence[str]) -> tuple[str, ...]:
    """Takes cases out, all that was cached and measured of them, the page of pictures, and what is kept of a round.

    A patient's pseudonym, stage and part of the split stay noted. Stopped in between, it goes on when called again.

    Returns:
        Those that a later import cannot know: no import made them.

    Raises:
        InputError: a case is unknown; nothing is removed. Or index or pseudonyms are damaged.
        WorkError: an import is at work in the folder, or a file cannot be deleted.
    """
    check_removable(places, case_ids)
    with opened(places.cases, places.site) as store:
        try:
            unknown = tuple(case_id for case_id in case_ids if not store.remove(case_id))
            for cache, case_id in product(places.caches, case_ids):
                forget_case(cache, case_id)
            forget_rounds(places.rounds)
            places.page.unlink(missing_ok=True)
        except OSError as error:
            raise WorkError(
                f"{error.filename or places.cases}: cannot be removed ({error.strerror}); let your account write "
                "there, then remove again: it goes on where it was"
            ) from error
    return unknown


def readmit_cases(places: CasePlaces, case_ids: Sequence[str]) -> None:
    """Lets the next import bring removed cases back, under their old pseudonyms.

    Raises:
        InputError: a case was not removed; nothing is changed. Or index or pseudonyms are damaged.
        WorkError: an import is at work in the folder.
    """
    store = _store(places)
    removed = {known.case_id for known in store.pseudonyms.cases.values() if known.removed}
    not_removed = [case_id for case_id in case_ids if case_id not in removed and case_id in store.entries]
    if not_removed:
        raise InputError(f"case {not_removed[0]}: is in use; expected one that was removed; leave it out")
    _check_known(case_ids, removed, places)
    with opened(places.cases, places.site) as store:
        for case_id in case_ids:
            store.mark(case_id, removed=False)


def _store(places: CasePlaces) -> CaseStore:
    if not (places.cases / INDEX_NAME).exists():
        raise InputError(f"{places.cases}: no cases here yet; import some first, or give --config")
    return CaseStore(places.cases, places.site)


def _pseudonyms(store: CaseStore) -> set[str]:
    return {known.case_id for known in store.pseudonyms.cases.values()}


def _check_known(case_ids: Sequence[str], known: Collection[str], places: CasePlaces) -> None:
    for case_id in case_ids:
        if case_id not in known:
            near = get_close_matches(case_id, sorted(known), n=3)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            listed = places.cases / INDEX_NAME
            raise InputError(f"case {case_id!r}: not known here; {meant}the site's cases are listed in {listed}")
