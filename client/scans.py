"""What `segment` is given: one scan, or a folder of many, DICOM and NIfTI mixed."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.dicom import CtSeries, DicomFolder, read_ct_series, scan_folder
from common.errors import ImageError
from common.nifti_file import read_slices
from common.text import clean_text, counted
from common.volume import Volume, read_nifti

log = logging.getLogger("fedgtv.site")
NIFTI = (".nii", ".nii.gz")
MASK, REPORT = "mask.nii.gz", "report.json"
"""Of a result."""
IMAGES = ("ct.nii.gz", "image.nii.gz")
"""Names of a case folder's image, as exports and imported cases have it: what lies beside it is no scan."""
MOST_LABELS = 128
"""Different values in a label map; models that label all organs of the body give 117."""
SHOWN = 3
"""Names of what is passed over, in a message."""


@dataclass(frozen=True)
class Scan:
    """One CT series, or one NIfTI file."""

    name: Path
    """Its place below the folder that was given: where its results go below the results' folder."""
    files: tuple[Path, ...]
    is_dicom: bool
    damaged: tuple[str, ...] = ()
    """Why each file cannot be read that lies beside its own: it may be one of its slices."""

    def read(self) -> tuple[CtSeries | None, Volume]:
        """Returns the series (None for NIfTI) and the volume (ImageError: it is no CT, or perhaps not all of it)."""
        if not self.is_dicom:
            return None, read_nifti(self.files[0])
        if self.damaged:
            damaged = counted(len(self.damaged), "file")
            raise ImageError(
                f"{self.name}: {damaged} beside its {counted(len(self.files), 'good slice')} cannot be read, such as "
                f"{self.damaged[0]}, or move it elsewhere if it is no slice"
            )
        series = read_ct_series(self.files)
        return series, series.volume

    def content(self) -> str:
        """Returns a hash of its files' bytes, and of what is damaged beside them; names and times do not matter."""
        parts = list(self.damaged)
        for path in self.files:
            with path.open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def find_scans(source: Path) -> tuple[Scan, ...]:
    """Returns the scans at or anywhere below `source`, by name.

    Every CT series is one; so is every NIfTI file, but in a folder with a `ct.nii.gz` or `image.nii.gz` that one alone.
    Label maps, whatever they are called, are none, nor are MR and PET series, and a line is logged that names them; nor
    is a `mask.nii.gz` beside a `report.json`, an earlier result. A DICOM file that cannot be read is told of by every
    series in its folder, or else logged.

    Raises:
        ImageError: there is no such file or folder, or no scan in it; one DICOM file is none.
    """
    if not source.exists():
        raise ImageError(f"{source}: does not exist; give a DICOM folder, a NIfTI file, or a folder of them")
    if source.is_file() and not source.name.endswith(NIFTI):
        raise ImageError(
            f"{source}: is a single file, and no NIfTI by its name; expected a .nii or .nii.gz, or a folder with all "
            f"slices of a CT; give the folder {source.parent}"
        )
    if source.is_file():
        return (Scan(Path(_stem(source)), (source,), False),)
    images, label_maps = _niftis(source)
    dicom = scan_folder(source)
    found = [*_series(source, dicom), *images]
    others = [_below(source, folder) for folder in sorted({path.parent for path in dicom.other_images})]
    told = " and ".join((*_listed(label_maps, "label map"), *_listed(others, "folder", " of MR or PET")))
    if not found:
        beside = f", but {told}" if told else ""
        raise ImageError(f"{source}: no CT series and no NIfTI image{beside}; export the planning CT into this folder")
    if told:
        log.warning("passed over as no CT: %s", told)
    return tuple(sorted(_apart(found), key=lambda scan: scan.name))


def _series(source: Path, found: DicomFolder) -> Iterator[Scan]:
    folders = {path.parent for files in found.ct_series.values() for path in files}
    for path, reason in found.unreadable:
        if path.parent not in folders:
            log.warning("%s; it is passed over", clean_text(reason, None))
    for files in found.ct_series.values():
        own = {path.parent for path in files}
        damaged = tuple(reason for path, reason in found.unreadable if path.parent in own)
        yield Scan(_below(source, files[0].parent), tuple(files), True, damaged)


def _niftis(source: Path) -> tuple[list[Scan], list[Path]]:
    """Returns the scans among the NIfTI files, and the names of the label maps among the others."""
    paths = sorted(path for path in source.rglob("*") if path.name.endswith(NIFTI) and not _is_result(path))
    cases = {path.parent: path for path in paths if path.name in IMAGES[::-1]}
    alone = [path for path in paths if path.parent not in cases]
    label_maps = [path for path in alone if _is_label_map(path)]
    scans = [Scan(_below(source, folder), (path,), False) for folder, path in cases.items()]
    scans += [
        Scan(_below(source, path.parent / _stem(path)), (path,), False) for path in alone if path not in label_maps
    ]
    return scans, [path.relative_to(source) for path in label_maps]


def _listed(places: list[Path], noun: str, of: str = "") -> Iterator[str]:
    """Gives how many there are, and the first of them by name; nothing for none."""
    if places:
        names = ", ".join(clean_text(str(name), None) for name in places[:SHOWN])
        rest = ", ..." if len(places) > SHOWN else ""
        yield f"{len(places)} {noun}{'' if len(places) == 1 else 's'}{of} ({names}{rest})"


def _is_label_map(path: Path) -> bool:
    """Whether a NIfTI file holds few whole numbers and none below 0; a CT's air tells within a slice or two.

    A damaged file is no label map: as a scan it fails by name.
    """
    values: set[float] = set()
    try:
        for plane in read_slices(path):
            values.update(float(value) for value in np.unique(plane))
            if len(values) > MOST_LABELS or any(value < 0 or not value.is_integer() for value in values):
                return False
    except ImageError:
        return False
    return True


def _is_result(path: Path) -> bool:
    return path.name == MASK and (path.parent / REPORT).exists()


def _below(source: Path, path: Path) -> Path:
    """The folder that was given itself counts by its own name."""
    return path.relative_to(source) if path != source else Path(source.resolve().name)


def _apart(scans: list[Scan]) -> Iterator[Scan]:
    """Gives scans of one place different names: the place and six digits of its first file's name."""
    counts = Counter(scan.name for scan in scans)
    for scan in scans:
        digits = hashlib.sha256(scan.files[0].name.encode()).hexdigest()[:6]
        yield scan if counts[scan.name] == 1 else replace(scan, name=Path(f"{scan.name}-{digits}"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
