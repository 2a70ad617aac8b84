"""A folder of cases: its index `cases.json`, and the patient-wise split into training, validation and test cases."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.atomic import write_text_atomically
from common.errors import InputError
from common.private import private_folder, private_mode
from common.settings import Name
from common.split import SplitConfig

INDEX_NAME = "cases.json"
INDEX_VERSION = 1
AGAIN = "restore it from a backup, or move it away and import every export again: cases keep their pseudonyms"
Part = Literal["train", "validation", "test"]
NOBODY: Mapping[str, Part] = MappingProxyType({})


@dataclass(frozen=True)
class CaseEntry:
    """One case of a site, by pseudonym; files are relative to the index's folder."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # read by TypeAdapter; the class stays a plain dataclass

    case_id: Name
    patient_id: str
    """Cases of one patient never part in a split."""
    images: tuple[str, ...]
    """One file a channel: plain CT, then contrast-enhanced CT if there is one."""
    label: str | None = None
    info: dict[str, Any] = field(default_factory=dict, hash=False)
    """Spacing, size, manufacturer and the like, JSON values; no identity."""


@dataclass(frozen=True)
class Split:
    """The three parts of a site's labelled cases, each ordered by case_id."""

    train: tuple[CaseEntry, ...]
    validation: tuple[CaseEntry, ...]
    test: tuple[CaseEntry, ...]


_ENTRIES = TypeAdapter(tuple[CaseEntry, ...])


def read_index(folder: Path) -> tuple[CaseEntry, ...]:
    """Returns the entries of `folder`/cases.json.

    Raises:
        InputError: the file is missing, no JSON, of another version, or an entry is at fault; the message names it.
    """
    path = Path(folder) / INDEX_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except NotADirectoryError as error:
        raise InputError(f"{folder}: is a file; expected a folder of cases; correct `cases` in site.yaml") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); import cases into this folder first") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {AGAIN}") from error
    if not isinstance(data, dict) or data.get("version") != INDEX_VERSION or set(data) != {"version", "cases"}:
        raise InputError(f"{path}: not an index of version {INDEX_VERSION} with keys 'version' and 'cases'; {AGAIN}")
    return _checked(data["cases"], path)


def write_index(folder: Path, entries: Iterable[CaseEntry]) -> None:
    """Writes `folder`/cases.json for its owner alone, atomically, ordered by case_id; InputError as by `read_index`."""
    path = Path(folder) / INDEX_NAME
    cases = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.case_id)]
    text = json.dumps({"version": INDEX_VERSION, "cases": cases}, indent=1)
    _checked(json.loads(text)["cases"], path)
    private_folder(path.parent)
    write_text_atomically(path, text + "\n", private_mode(path.parent))


def _checked(cases: Any, path: Path) -> tuple[CaseEntry, ...]:
    try:
        entries = _ENTRIES.validate_python(cases)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "cases"
        raise InputError(f"{path}: cases.{where}: {fault['msg']}; {AGAIN}") from error
    seen: set[str] = set()
    for entry in entries:
        if entry.case_id in seen:
            raise InputError(f"{path}: case {entry.case_id!r} stands twice; expected every case once; remove one")
        seen.add(entry.case_id)
        _check_files(entry, path)
    return entries


def _check_files(entry: CaseEntry, path: Path) -> None:
    if not entry.images:
        raise InputError(f"{path}: case {entry.case_id!r} has no image; expected at least one; {AGAIN}")
    for name in (*entry.images, *([entry.label] if entry.label is not None else [])):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise InputError(
                f"{path}: case {entry.case_id!r} names file {name!r}; expected a path inside the index's folder; "
                "move the file there"
            )


def split_cases(entries: Sequence[CaseEntry], config: SplitConfig, earlier: Mapping[str, Part] = NOBODY) -> Split:
    """Returns the cases as `assign_patients` parts their patients; those without a label are in no part."""
    return part_cases(entries, assign_patients(entries, config, earlier))


def part_cases(entries: Sequence[CaseEntry], parts: Mapping[str, Part]) -> Split:
    """Returns the cases by the part of their patient; those without a label are in none."""
    labelled = sorted((entry for entry in entries if entry.label is not None), key=lambda entry: entry.case_id)

    def of(part: Part) -> tuple[CaseEntry, ...]:
        return tuple(entry for entry in labelled if parts[entry.patient_id] == part)

    return Split(of("train"), of("validation"), of("test"))


def assign_patients(
    entries: Iterable[CaseEntry], config: SplitConfig, earlier: Mapping[str, Part] = NOBODY
) -> dict[str, Part]:
    """Returns the part of every patient with a labelled case: the seeded draw, the same for any order of `entries`.

    Fractions are of patients, rounded to the nearest number. With three or more patients every part holds at least one,
    unless its fraction is 0; with two, one is for training and the other for the test (or validation, if test_fraction
    is 0); a single one trains.

    Whoever has a part in `earlier` keeps it, also while their cases are away. New patients, in the order of the draw,
    fill what test and validation lack of the sizes that a first draw would give to those who are there now; the rest
    train. So parts grow to the same sizes in whatever batches cases come. Where cases were removed a part can stay too
    large, for nobody changes sides; one new patient trains before any is held out.
    """
    present = {entry.patient_id for entry in entries if entry.label is not None}
    known = [earlier[patient] for patient in present if patient in earlier]
    new = sorted(present - earlier.keys(), key=lambda patient: draw(config.seed, patient))
    num_test, num_validation = _part_sizes(len(present), config)
    free = len(new) - ("train" not in known)
    lacking_test = _within(num_test - known.count("test"), free)
    lacking_validation = _within(num_validation - known.count("validation"), free - lacking_test)
    parts: dict[str, Part] = dict.fromkeys(new, "train")
    parts |= dict.fromkeys(new[:lacking_test], "test")
    parts |= dict.fromkeys(new[lacking_test : lacking_test + lacking_validation], "validation")
    return dict(earlier) | parts


def _within(wanted: int, available: int) -> int:
    return max(0, min(wanted, available))


def draw(seed: int | str, patient_id: str) -> str:
    """Returns a patient's place in a seeded order; a hash, for it may not depend on who else is in the cohort."""
    return hashlib.sha256(f"{seed}:{patient_id}".encode()).hexdigest()


def _part_sizes(num_patients: int, config: SplitConfig) -> tuple[int, int]:
    """Numbers of test and validation patients; at least one is left for training."""
    wants_validation = config.validation_fraction > 0 and (num_patients >= 3 or config.test_fraction == 0)
    num_test = part_size(num_patients, config.test_fraction, num_patients - 1 - wants_validation)
    rest = num_patients - num_test
    return num_test, part_size(rest, config.validation_fraction, rest - 1)


def part_size(num_patients: int, fraction: float, largest: int) -> int:
    """Returns a fraction of the patients, rounded to the nearest number, from 1 to `largest`; 0 of fraction 0."""
    if fraction == 0 or largest < 1:
        return 0
    return min(max(math.floor(fraction * num_patients + 0.5), 1), largest)
