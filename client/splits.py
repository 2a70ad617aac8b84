"""Which of a site's patients train and which are held out, kept: importing more cases never moves a patient.

WORK/splits/<fingerprint of the split>.json names every patient, by pseudonym, that was ever given a part under one
`SplitConfig`, or in one of its folds. folds-<fingerprint>.json names the part that each patient was dealt to: the fold
in which they test. Both are on disk before a case of them is used.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from common.atomic import write_text_atomically
from common.dataset import NOBODY, CaseEntry, Part, Split, assign_patients, part_cases
from common.errors import InputError
from common.folds import NOT_DEALT, assign_fold, deal_patients
from common.private import private_folder, private_mode
from common.settings import Frozen, fingerprint
from common.split import SplitConfig

FOLDER = "splits"
LOCK = ".lock"
Kept = TypeVar("Kept", bound=Frozen)


class _Kept(Frozen):
    """One file: the split is repeated in it for people to read."""

    split: SplitConfig
    patients: dict[str, Part]


class _Dealt(Frozen):
    """The parts that patients were dealt to for cross-validation."""

    folds: int
    seed: int
    patients: dict[str, int]


def keep_split(entries: Sequence[CaseEntry], config: SplitConfig, work: Path) -> Split:
    """Returns the split of `entries`; whoever is new is drawn and noted first.

    Safe for several processes at once: a second one sees what the first has drawn.

    Raises:
        InputError: a file that holds an earlier draw is damaged.
    """
    folder = private_folder(work / FOLDER)
    with _alone(folder):
        earlier = kept_parts(config, work)
        if config.fold:
            parts = assign_fold(entries, config, _keep_deal(entries, config, work), earlier)
        else:
            parts = assign_patients(entries, config, earlier)
        if parts != earlier:
            _write(config, parts, work)
    return part_cases(entries, parts)


def _keep_deal(entries: Sequence[CaseEntry], config: SplitConfig, work: Path) -> Mapping[str, int]:
    earlier = _dealt(config, work)
    dealt = deal_patients(entries, config, earlier)
    if dealt != earlier:
        _write_deal(config, dealt, work)
    return dealt


def adopt_split(config: SplitConfig, source: Path, work: Path, prefix: str = "") -> None:
    """Notes in `work` the parts that are kept in `source`; they take the place of others given there.

    `prefix` stands before the patients' names in `work`.

    Raises:
        InputError: one of the files is damaged.
    """
    adopted = {prefix + patient: part for patient, part in kept_parts(config, source).items()}
    adopted_deal = {prefix + patient: part for patient, part in _dealt(config, source).items()}
    folder = private_folder(work / FOLDER)
    with _alone(folder):
        earlier = kept_parts(config, work)
        if not adopted.items() <= earlier.items():
            _write(config, {**earlier, **adopted}, work)
        dealt = _dealt(config, work)
        if not adopted_deal.items() <= dealt.items():
            _write_deal(config, {**dealt, **adopted_deal}, work)


def kept_parts(config: SplitConfig, work: Path) -> Mapping[str, Part]:
    """Returns the parts given so far, none before the first draw; InputError if their file is damaged."""
    path = _path(config, work)
    return _read(path, _Kept).patients if path.exists() else NOBODY


def _dealt(config: SplitConfig, work: Path) -> Mapping[str, int]:
    path = _deal_path(config, work)
    return _read(path, _Dealt).patients if config.fold and path.exists() else NOT_DEALT


def _read(path: Path, kind: type[Kept]) -> Kept:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: damaged; expected a split and the part of each of its patients; restore it from a backup: "
            "without it the split is drawn anew, and cases that trained a model may test it"
        ) from error


def _write(config: SplitConfig, parts: Mapping[str, Part], work: Path) -> None:
    _put(_path(config, work), _Kept(split=config, patients=dict(sorted(parts.items()))))


def _write_deal(config: SplitConfig, dealt: Mapping[str, int], work: Path) -> None:
    kept = _Dealt(folds=config.folds, seed=config.seed, patients=dict(sorted(dealt.items())))
    _put(_deal_path(config, work), kept)


def _put(path: Path, kept: Frozen) -> None:
    write_text_atomically(path, kept.model_dump_json(indent=1) + "\n", private_mode(path.parent))


def _path(config: SplitConfig, work: Path) -> Path:
    """The plain split's file does not depend on `folds`, so that asking for some moves nobody in it."""
    number = fingerprint(config) if config.fold else fingerprint(config.model_dump(exclude={"folds", "fold"}))
    return work / FOLDER / f"{number}.json"


def _deal_path(config: SplitConfig, work: Path) -> Path:
    return work / FOLDER / f"folds-{fingerprint(config.folds, config.seed)}.json"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, private_mode(folder))
    try:
        if os.fstat(handle).st_uid == os.geteuid():  # else another account made it, and shared it
            os.fchmod(handle, private_mode(folder))
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
