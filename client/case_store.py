"""A cases folder: index, pseudonyms and case folders, in step after every case and whoever stops the import."""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.dicom_case import DicomCase
from client.exports import ExportedCase
from client.loaded_case import TRUTH_NAME, LoadedCase
from client.nifti_case import NiftiCase
from client.pseudonyms import FILE_NAME, KnownCase, Pseudonyms
from common.atomic import OWNERS
from common.dataset import INDEX_NAME, CaseEntry, read_index, write_index
from common.errors import InputError, WorkError
from common.private import close_to_others, private_folder, share_like
from common.text import counted
from common.volume import write_nifti

IMAGE_NAMES = ("image.nii.gz", "contrast.nii.gz")
"""By channel."""
LABEL_NAME = "label.nii.gz"
LOCK = ".import.lock"
STAGING = ".import-"
EARLIER = "earlier"
STAGE = "stage"


class CaseStore:
    """The cases of a site as far as they are imported."""

    def __init__(self, folder: Path, site: str) -> None:
        """Reads what is there; InputError: index or pseudonyms are damaged, or may not be read."""
        self.folder = folder
        self.site = site
        with _allowed(folder):
            self.pseudonyms = Pseudonyms.load(folder)
            entries = read_index(folder) if (folder / INDEX_NAME).exists() else ()
        self.entries = {entry.case_id: entry for entry in entries}
        for entry in entries:
            if STAGE in entry.info:
                self.pseudonyms.stages.setdefault(entry.patient_id, entry.info[STAGE])

    @property
    def staging(self) -> Path:
        """Where this process's unfinished cases lie."""
        return self.folder / f"{STAGING}{os.getpid()}"

    def check_whole(self) -> None:
        """Raises InputError if the index lists cases that the pseudonyms do not know: their names would be given again.

        A case is written to the pseudonyms before it is to the index, whoever stops an import.
        """
        known = {case.case_id for case in self.pseudonyms.cases.values()}
        lost = [case_id for case_id in self.entries if case_id not in known]
        if lost:
            raise InputError(
                f"{self.folder / FILE_NAME}: does not say whose {counted(len(lost), 'case')} of {INDEX_NAME} are, "
                f"such as {lost[0]}, and another patient could get that name; expected all; restore it from a backup, "
                "or import into an empty folder (`cases` in site.yaml)"
            )

    def recognised(self, cases: Sequence[ExportedCase]) -> list[ExportedCase]:
        """Returns the cases, those under their other series' key that an earlier import knows by that alone.

        Else a structure set drawn on the other one of two images would make a second case of the same.
        """
        known = self.pseudonyms.cases
        claimed = Counter(key for case in cases if isinstance(case, DicomCase) for key in (case.key, case.other_key))

        def is_renamed(case: DicomCase) -> bool:
            return case.key not in known and case.other_key in known and claimed[case.other_key] == 1

        return [
            replace(case, key=case.other_key, other_key=case.key)
            if isinstance(case, DicomCase) and is_renamed(case)
            else case
            for case in cases
        ]

    def known(self, key: str) -> KnownCase | None:
        """Returns an earlier import of the case of this key that is in the index."""
        known = self.pseudonyms.cases.get(key)
        return known if known and known.case_id in self.entries else None

    def removed(self, case: ExportedCase) -> KnownCase | None:
        """Returns what is known of a case that was taken out on purpose."""
        known = self.pseudonyms.cases.get(case.key)
        return known if known and known.removed else None

    def is_unchanged(self, case: ExportedCase, content: str, looked_for: str, find_target: Callable[[], str]) -> bool:
        """Whether the case was imported from the same content, with the same target, and is still there.

        The target is looked up, by `find_target`, only where something else is looked for than at the import.
        """
        known = self.known(case.key)
        if known is None or known.content != content:
            return False
        entry = self.entries[known.case_id]
        names = (*entry.images, *([entry.label] if entry.label else []))
        if not all((self.folder / name).is_file() for name in names):
            return False
        return known.looked_for == looked_for or known.target == find_target()

    def confirm(self, looked_for: Mapping[str, str]) -> None:
        """Notes what was looked for, by key, in unchanged cases, so that the next import need not look again."""
        cases = self.pseudonyms.cases
        noted = {key: replace(cases[key], looked_for=what) for key, what in looked_for.items()}
        if any(cases[key] != known for key, known in noted.items()):
            cases |= noted
            self.pseudonyms.save(self.folder)

    def check_source(self, case: ExportedCase) -> None:
        """Raises InputError rather than let another patient's case replace one that was imported before.

        A NIfTI folder is known by its name, which another export may use for somebody else: it must stay where it was,
        or hold the same files. One that holds those of a case of another name is the same patient, and gets no second
        pseudonym. A DICOM series must keep its patient.
        """
        known = self.pseudonyms.cases.get(case.key)
        if isinstance(case, NiftiCase):
            _check_place(case, known) if known else self._check_new(case)
        elif known and self.pseudonyms.patients.get(case.patient_key) != known.patient_id:
            raise InputError(
                f"its series was imported before as {known.case_id}, from {known.source}, with another "
                "PatientID; expected a series to keep its patient; export it with the PatientID that it had, or with a "
                "SeriesInstanceUID of its own if it is another patient's"
            )

    def _check_new(self, case: NiftiCase) -> None:
        """Raises InputError if the case is known by another name: its import began elsewhere, or it is a copy."""
        nifti = {key: known for key, known in self.pseudonyms.cases.items() if known.files}
        there = [key for key, known in nifti.items() if known.source == _origin(case)]
        digest = case.digest() if nifti and not there else ""
        for key in there or [key for key, known in nifti.items() if known.files == digest]:
            raise InputError(
                f"its {'folder was' if there else 'files were'} imported before as {nifti[key].case_id}, as {key!r} "
                f"from {nifti[key].source}; expected one name for a case, which is its path below the folder given; "
                "import the folder that was imported then, or give this case another place if it is another patient"
            )

    def add(
        self, case: ExportedCase, staged: Path, num_images: int, info: Mapping[str, Any], content: tuple[str, str, str]
    ) -> str:
        """Takes over a case written by `write_case`: folder, then pseudonym, then index; returns the pseudonym.

        `content` holds the hashes that a `KnownCase` keeps: content, what was looked for, target.
        """
        patient_id = self.pseudonyms.patient_id(self.site, case.patient_key)
        case_id = self.pseudonyms.case_id(case.key, patient_id)
        self._put(staged, case_id)
        self.pseudonyms.patients[case.patient_key] = patient_id
        self.pseudonyms.cases[case.key] = KnownCase(
            case_id, patient_id, _origin(case), *content, case.digest() if isinstance(case, NiftiCase) else ""
        )
        self.pseudonyms.save(self.folder)
        stage = self.pseudonyms.stages.get(patient_id)
        self.entries[case_id] = CaseEntry(
            case_id=case_id,
            patient_id=patient_id,
            images=tuple(f"{case_id}/{name}" for name in IMAGE_NAMES[:num_images]),
            label=f"{case_id}/{LABEL_NAME}",
            info=dict(info) | ({STAGE: stage} if stage else {}),
        )
        write_index(self.folder, self.entries.values())
        return case_id

    def remove(self, case_id: str) -> bool:
        """Takes a case out: its mark first, then its line, then its files; returns whether an import will know.

        Whoever stops it in between takes it out again. A case that no import made has no key to know it by.
        """
        is_known = self.mark(case_id, removed=True)
        entry = self.entries.pop(case_id, None)
        if entry is not None:
            write_index(self.folder, self.entries.values())
        if (self.folder / case_id).exists():
            shutil.rmtree(self.folder / case_id)
        for name in (*entry.images, entry.label) if entry else ():
            if name is not None:
                (self.folder / name).unlink(missing_ok=True)
        return is_known

    def mark(self, case_id: str, *, removed: bool) -> bool:
        """Notes whether a case is taken out on purpose; returns whether it was ever imported."""
        marked = {
            key: replace(known, removed=removed)
            for key, known in self.pseudonyms.cases.items()
            if known.case_id == case_id
        }
        if marked:
            self.pseudonyms.cases |= marked
            self.pseudonyms.save(self.folder)
        return bool(marked)

    def set_stages(self, stages: Mapping[str, str]) -> None:
        """Notes the stages of patients by their keys in the exports; of others, what was noted stays."""
        patients = self.pseudonyms.patients
        by_pseudonym = {patients[key]: stage for key, stage in stages.items() if key in patients}
        if by_pseudonym.items() - self.pseudonyms.stages.items():
            self.pseudonyms.stages |= by_pseudonym
            self.pseudonyms.save(self.folder)
        staged = {
            case_id: replace(entry, info=entry.info | {STAGE: by_pseudonym[entry.patient_id]})
            for case_id, entry in self.entries.items()
            if entry.patient_id in by_pseudonym
        }
        if any(self.entries[case_id].info != entry.info for case_id, entry in staged.items()):
            self.entries |= staged
            write_index(self.folder, self.entries.values())

    def _put(self, staged: Path, case_id: str) -> None:
        """Gives a whole folder its case's name; what was there waits in the staging until then."""
        target, earlier = self.folder / case_id, self.staging / EARLIER / case_id
        if target.exists():
            private_folder(earlier.parent)
            target.rename(earlier)
        share_like(staged, self.folder)
        staged.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)


@contextmanager
def opened(folder: Path, site: str) -> Iterator[CaseStore]:
    """Gives the store to one import or removal at a time, and leaves a folder behind only if there are cases in it.

    Raises:
        InputError: index or pseudonyms are damaged, or the folder cannot be one, or may not be written.
        WorkError: another import is at work here.
    """
    with _allowed(folder):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _allowed(folder):
            private_folder(folder)
            with _alone(folder):
                _recover(folder)
                try:
                    yield CaseStore(folder, site)
                finally:
                    _recover(folder)
    except (FileExistsError, NotADirectoryError) as error:
        told = f"{folder}: is a file, or lies in one; expected a folder; correct `cases` in site.yaml"
        raise InputError(told) from error
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def _allowed(folder: Path) -> Iterator[None]:
    """Makes an InputError of what the system denies of the folder, in it or above it."""
    try:
        yield
    except PermissionError as error:
        denied = Path(str(error.filename))
        if not (denied.is_relative_to(folder) or folder.is_relative_to(denied)):
            raise
        raise InputError(
            f"{denied}: this account may not read or write it; expected its own folder; give it the folder, or name "
            "another as `cases` in site.yaml"
        ) from error


def write_case(loaded: LoadedCase, folder: Path) -> None:
    """Writes a case's images, label and truth into a new `folder`, for its owner alone; nothing of their sources' text.

    Raises:
        WorkError: the disk is full or not writable.
    """
    try:
        private_folder(folder)
        for name, image in zip(IMAGE_NAMES, loaded.images, strict=False):
            write_nifti(image, folder / name)
        write_nifti(loaded.label, folder / LABEL_NAME)
        if loaded.truth:
            write_nifti(loaded.truth, folder / TRUTH_NAME)
        close_to_others(folder)
    except OSError as error:
        raise WorkError(
            f"{folder.parent.parent}: cannot be written ({error.strerror}); free space, then import again: it goes on "
            "where it was"
        ) from error


def _recover(folder: Path) -> None:
    """Takes away what an import left unfinished; a case's earlier folder that was waiting there goes back."""
    for staging in folder.glob(f"{STAGING}*/"):
        for earlier in staging.glob(f"{EARLIER}/*/"):
            if not (folder / earlier.name).exists():
                earlier.rename(folder / earlier.name)
        shutil.rmtree(staging)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, or raises a WorkError; the lock's file goes while it is still held."""
    path = folder / LOCK
    with open(path, "a", opener=lambda name, flags: os.open(name, flags, OWNERS)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except OSError:
            current = False
        if not current:
            raise WorkError(f"{folder}: another import is at work here; wait until it has ended, then try again")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _check_place(case: NiftiCase, known: KnownCase) -> None:
    place = _origin(case)
    if known.source == place or (known.files and known.files == case.digest()):
        return
    gone = "" if Path(known.source).exists() else ", where it is no longer"
    raise InputError(
        f"what lies at {place} differs from what was imported as {known.case_id} from {known.source}{gone}; expected "
        "one place for a case; rename the new folder if it is another patient, put it in the old one's place if it is "
        "the same"
    )


def _origin(case: ExportedCase) -> str:
    return str(case.origin.resolve())
