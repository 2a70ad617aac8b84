"""The only place that knows whose case a pseudonym is: `pseudonyms.json`, readable by its owner alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.atomic import OWNERS, write_bytes_atomically
from common.errors import InputError
from common.text import counted

FILE_NAME = "pseudonyms.json"


@dataclass(frozen=True)
class KnownCase:
    """An imported case."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    case_id: str
    patient_id: str
    source: str
    """Where it was imported from."""
    content: str
    """Hash of the files it was made of, and of all else that decides what becomes of them but the choice of target."""
    looked_for: str = ""
    """Hash of what the configuration calls the target."""
    target: str = ""
    """Hash of the target that was chosen by it."""
    files: str = ""
    """Hash of the bytes of a NIfTI case's files: another place may hold the same, or others of equal size and time.
    Empty for DICOM, whose series tell who they are."""
    removed: bool = False
    """Taken out on purpose: an import does not bring it back."""


@dataclass
class Pseudonyms:
    """Patients and cases of a site, by their keys in the exports."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    patients: dict[str, str] = field(default_factory=dict)
    cases: dict[str, KnownCase] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    """Of patients by pseudonym, as far as they were given: they outlast a case that is taken out."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns those of a cases folder, none if it has no file yet; InputError if the file is damaged."""
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path}: damaged ({counted(error.error_count(), 'fault')}); expected patients and cases; restore it "
                "from a backup, or import into an empty folder"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes them atomically, mode 0600."""
        write_bytes_atomically(folder / FILE_NAME, TypeAdapter(Pseudonyms).dump_json(self, indent=1), OWNERS)

    def patient_id(self, site: str, patient_key: str) -> str:
        """Returns a patient's pseudonym, such as A-0001; the next free number for a new one."""
        numbers = [int(name.rpartition("-")[2]) for name in self.patients.values()]
        return self.patients.get(patient_key) or f"{site}-{max(numbers, default=0) + 1:04d}"

    def case_id(self, key: str, patient_id: str) -> str:
        """Returns a case's pseudonym: its patient's for the first, then A-0001-2, A-0001-3, ..."""
        if key in self.cases:
            return self.cases[key].case_id
        taken = {case.case_id for case in self.cases.values()}
        numbered = (f"{patient_id}-{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (patient_id, *numbered) if name not in taken)
