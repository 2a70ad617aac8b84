"""Which of a site's patients train and which are held out, kept: importing more cases never moves a patient.

WORK/splits/<fingerprint of the split>.json names every patient, by pseudonym, that was ever given a part under one
`SplitConfig`. It is on disk before a case of it is used.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from common.atomic import write_text_atomically
from common.config import Frozen, SplitConfig, fingerprint
from common.dataset import NOBODY, CaseEntry, Part, Split, assign_patients, split_cases
from common.errors import InputError
from common.private import private_folder, private_mode

FOLDER = "splits"
LOCK = ".lock"


class _Kept(Frozen):
    """One file: the split is repeated in it for people to read."""

    split: SplitConfig
    patients: dict[str, Part]


def keep_split(entries: Sequence[CaseEntry], config: SplitConfig, work: Path) -> Split:
    """Returns the split of `entries`; whoever is new is drawn and noted first.

    Safe for several processes at once: a second one sees what the first has drawn.

    Raises:
        InputError: the file that holds the earlier draw is damaged.
    """
    folder = private_folder(work / FOLDER)
    with _alone(folder):
        earlier = kept_parts(config, work)
        parts = assign_patients(entries, config, earlier)
        if parts != earlier:
            _write(config, parts, work)
    return split_cases(entries, config, parts)


def adopt_split(config: SplitConfig, source: Path, work: Path, prefix: str = "") -> None:
    """Notes in `work` the parts that are kept in `source`; they take the place of others given there.

    `prefix` stands before the patients' names in `work`.

    Raises:
        InputError: one of the files is damaged.
    """
    adopted = {prefix + patient: part for patient, part in kept_parts(config, source).items()}
    folder = private_folder(work / FOLDER)
    with _alone(folder):
        earlier = kept_parts(config, work)
        if not adopted.items() <= earlier.items():
            _write(config, {**earlier, **adopted}, work)


def kept_parts(config: SplitConfig, work: Path) -> Mapping[str, Part]:
    """Returns the parts given so far, none before the first draw; InputError if their file is damaged."""
    path = _path(config, work)
    if not path.exists():
        return NOBODY
    try:
        return _Kept.model_validate_json(path.read_bytes()).patients
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: damaged; expected a split and the part of each of its patients; restore it from a backup: "
            "without it the split is drawn anew, and cases that trained a model may test it"
        ) from error


def _write(config: SplitConfig, parts: Mapping[str, Part], work: Path) -> None:
    kept = _Kept(split=config, patients=dict(sorted(parts.items())))
    path = _path(config, work)
    write_text_atomically(path, kept.model_dump_json(indent=1) + "\n", private_mode(path.parent))


def _path(config: SplitConfig, work: Path) -> Path:
    return work / FOLDER / f"{fingerprint(config)}.json"


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
