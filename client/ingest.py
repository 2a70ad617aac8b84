"""Import: an export becomes a folder of pseudonymous cases with an index, whole or not at all, case by case."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.export_case import TRUTH_NAME, ExportedCase, LoadedCase, NiftiCase
from client.exports import find_cases
from client.pseudonyms import KnownCase, Pseudonyms
from common.config import IngestConfig, fingerprint
from common.dataset import INDEX_NAME, CaseEntry, read_index, write_index
from common.errors import InputError
from common.private import close_to_others, private_folder
from common.volume import write_nifti

IMAGE_NAME = "image.nii.gz"
LABEL_NAME = "label.nii.gz"
FORMAT = 1  # of an imported case; a higher number imports all again

Progress = Callable[[int, int, str], None]
"""Called with the number of cases done, the number in all, and the name of the next (empty at the end)."""


@dataclass(frozen=True)
class ImportReport:
    """What became of an export; names are the export's own, so it stays on the site."""

    imported: tuple[str, ...]
    """Pseudonyms of new and changed cases."""
    skipped: tuple[str, ...]
    """Pseudonyms of cases that have not changed since an earlier import."""
    refused: tuple[tuple[str, str], ...]
    """Folder (or file) and the reason, in one line."""
    warnings: tuple[str, ...]


def import_folder(
    source: Path, cases: Path, config: IngestConfig, site: str, progress: Progress | None = None
) -> ImportReport:
    """Imports what is new or changed in an export, DICOM or NIfTI, into `cases`.

    Every case becomes `cases`/PSEUDONYM/image.nii.gz and label.nii.gz (and truth.nii.gz if the export has one), for
    their owner alone, and an entry of the index; a refused one leaves nothing, and an earlier import of it stays as it
    was. Interrupted, it goes on where it stopped when called again. Cases are told apart by series UID (DICOM) or
    folder name (NIfTI).

    Raises:
        ImageError: there is no such folder, or nothing in it that could be a case.
        InputError: the cases folder's index or pseudonyms are damaged.
    """
    export = find_cases(source, config)
    store = _Store(Path(cases), site)
    imported, skipped, refused, warnings = [], [], list(export.refused), list(export.warnings)
    for number, case in enumerate(export.cases):
        if progress:
            progress(number, len(export.cases), case.name)
        content = _content(case, config)
        known = store.unchanged(case, content)
        if known:
            skipped.append(known)
            continue
        try:
            store.check_source(case)
            loaded = case.load(config)
        except InputError as error:
            refused.append((case.name, str(error)))
            continue
        imported.append(store.add(case, loaded, content))
        warnings += [f"{case.name}: {warning}" for warning in loaded.warnings]
    if progress:
        progress(len(export.cases), len(export.cases), "")
    return ImportReport(tuple(imported), tuple(skipped), tuple(refused), tuple(warnings))


class _Store:
    """A cases folder: index, pseudonyms and case folders, in step after every case."""

    def __init__(self, folder: Path, site: str) -> None:
        self.folder = folder
        self.site = site
        self.pseudonyms = Pseudonyms.load(folder)
        entries = read_index(folder) if (folder / INDEX_NAME).exists() else ()
        self.entries = {entry.case_id: entry for entry in entries}
        for unfinished in folder.glob(".import-*"):
            shutil.rmtree(unfinished)

    def unchanged(self, case: ExportedCase, content: str) -> str | None:
        """Returns the pseudonym of a case that was imported from the same files and is still there."""
        known = self.pseudonyms.cases.get(case.key)
        if known is None or known.content != content or known.case_id not in self.entries:
            return None
        there = all((self.folder / known.case_id / name).is_file() for name in (IMAGE_NAME, LABEL_NAME))
        return known.case_id if there else None

    def check_source(self, case: ExportedCase) -> None:
        """Raises InputError rather than let a NIfTI folder of another export replace one of the same name."""
        known = self.pseudonyms.cases.get(case.key)
        if known is None or not isinstance(case, NiftiCase):
            return
        if known.source != _origin(case) and Path(known.source).exists():
            raise InputError(
                f"{case.name} was imported from {known.source} before; expected one place for a case; rename the new "
                "folder if it is another patient, remove the old one if it moved"
            )

    def add(self, case: ExportedCase, loaded: LoadedCase, content: str) -> str:
        """Writes a case, then its pseudonym, then the index; returns the pseudonym."""
        patient_id = self.pseudonyms.patient_id(self.site, case.patient_key)
        case_id = self.pseudonyms.case_id(case.key, patient_id)
        self._write_folder(case_id, case, loaded)
        self.pseudonyms.patients[case.patient_key] = patient_id
        self.pseudonyms.cases[case.key] = KnownCase(case_id, patient_id, _origin(case), content)
        self.pseudonyms.save(self.folder)
        self.entries[case_id] = CaseEntry(
            case_id=case_id,
            patient_id=patient_id,
            images=(f"{case_id}/{IMAGE_NAME}",),
            label=f"{case_id}/{LABEL_NAME}",
            info=loaded.info,
        )
        write_index(self.folder, self.entries.values())
        return case_id

    def _write_folder(self, case_id: str, case: ExportedCase, loaded: LoadedCase) -> None:
        """Writes into a temporary folder and renames it, so that a case folder is always whole."""
        temporary = self.folder / f".import-{os.getpid()}"
        unfinished = private_folder(temporary / "new")
        try:
            write_nifti(loaded.image, unfinished / IMAGE_NAME)
            write_nifti(loaded.label, unfinished / LABEL_NAME)
            if case.truth:
                shutil.copyfile(case.truth, unfinished / TRUTH_NAME)
            close_to_others(unfinished)
            target = self.folder / case_id
            if target.exists():
                target.rename(temporary / "old")
            unfinished.rename(target)
        finally:
            shutil.rmtree(temporary)


def _content(case: ExportedCase, config: IngestConfig) -> str:
    """Returns a hash of all that a case is made of: names, sizes and times of its files, and what is looked for."""
    digest = hashlib.sha256(fingerprint(config, FORMAT).encode())
    for path in case.files:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _origin(case: ExportedCase) -> str:
    return str(case.files[0].parent.resolve())
