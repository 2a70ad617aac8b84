"""What an export holds: CT series paired with RTSTRUCTs, and NIfTI case folders; found by headers, not yet read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.completeness import lost_images
from client.contrast import Images, choose_images
from client.dicom_case import DicomCase
from client.import_report import unexpected
from client.nifti_case import NiftiCase
from client.pairing import Pairing, pair
from client.series import Series, list_series, shown
from common.config import IngestConfig
from common.dicom import scan_folder
from common.errors import ImageError, InputError
from common.text import counted

ExportedCase = DicomCase | NiftiCase


@dataclass(frozen=True)
class Export:
    """The cases of an export in a fixed order, and what could not become one."""

    cases: tuple[ExportedCase, ...]
    refused: tuple[tuple[str, str], ...] = ()
    """Structure sets and series without the other, by name, and the reason."""
    warnings: tuple[str, ...] = ()
    unread: tuple[tuple[str, str, bool], ...] = ()
    """Files and folders that could not be read, by name: the reason, and whether the system denies them."""


@dataclass
class _Drawn:
    """What was drawn on a series."""

    paths: list[Path] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)


def find_cases(source: Path, config: IngestConfig, own: Path | None = None) -> Export:
    """Returns all cases anywhere below `source`, DICOM and NIfTI; every file's header is read once.

    Imported cases are NIfTI case folders too: `own`, the folder they lie in, is left out where it lies below `source`.

    Raises:
        ImageError: `source` is no folder, or holds neither a CT series nor an image of the configured name.
    """
    source = Path(source)
    found = scan_folder(source)
    nifti = _nifti_cases(source, found.files, config, own)
    unread = tuple(
        (shown(path, source), reason.removeprefix(f"{path}: "), path in found.denied)
        for path, reason in found.unreadable
    )
    if not found.ct_series and not nifti:
        raise ImageError(_nothing(source, len(found.files), unread, config))
    series = list_series(source, found.ct_series, found.headers)
    patients = {path: str(found.headers[path].get("PatientID") or "").strip() for path in found.structure_sets}
    drawn, refused = _pair_all(source, patients, series, config)
    images, refusals = _images(drawn, series, config)
    beside = Counter(path.parent for path, _ in found.unreadable)
    dicom = [_dicom_case(series[uid], drawn[uid], images[uid], beside, refusals.get(uid, "")) for uid in drawn]
    used = {each.uid for chosen in images.values() for each in (chosen.plain, chosen.contrast) if each} | set(drawn)
    left_out, without = _undrawn(series, used, beside)
    return Export((*dicom, *nifti), (*refused, *without), left_out, unread)


def _nothing(source: Path, num_files: int, unread: Sequence[tuple[str, str, bool]], config: IngestConfig) -> str:
    """Returns why an export without a case is refused: what could not be read may be what is missing."""
    if unread:
        name, reason, _ = unread[0]
        found = counted(num_files, "file")
        return f"{source}: no CT among {found}; {len(unread)} could not be read, such as {name}: {reason}"
    return (
        f"{source}: no CT among {counted(num_files, 'file')}; expected DICOM CT slices or <case>/{config.image_name}; "
        "export the planning CT into this folder"
    )


def _nifti_cases(source: Path, files: Sequence[Path], config: IngestConfig, own: Path | None) -> tuple[NiftiCase, ...]:
    names = {config.image_name, config.label_name}
    found = {path.parent for path in files if path.name in names}
    folders = sorted(folder for folder in found if own is None or not folder.resolve().is_relative_to(own.resolve()))
    keys = [folder.relative_to(source).as_posix() for folder in folders]
    keys = [source.resolve().name if key == "." else key for key in keys]
    return tuple(NiftiCase(key, key, folder, config) for key, folder in zip(keys, folders, strict=True))


def _pair_all(
    source: Path, patients: Mapping[Path, str], series: Mapping[str, Series], config: IngestConfig
) -> tuple[dict[str, _Drawn], list[tuple[str, str]]]:
    """Returns what was drawn by series, in the order of `series`, and the structure sets that fit none, with reasons.

    `patients` are the PatientIDs of the structure sets.
    """
    drawn: dict[str, _Drawn] = {uid: _Drawn() for uid in series}
    refused = []
    for path, patient_id in patients.items():
        try:
            pairing = pair(path, patient_id, series, config)
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else unexpected(error)
            refused.append((shown(path, source), reason))
            continue
        drawn[pairing.series_uid].paths.append(path)
        drawn[pairing.series_uid].pairings.append(pairing)
    return {uid: each for uid, each in drawn.items() if each.paths}, refused


def _images(
    drawn: Mapping[str, _Drawn], series: Mapping[str, Series], config: IngestConfig
) -> tuple[dict[str, Images], dict[str, str]]:
    """Returns the images of every series drawn on, and the reasons of those whose second image is at fault."""
    images, refusals = {}, {}
    for uid in drawn:
        try:
            images[uid] = choose_images(series[uid], series.values(), config.contrast)
        except ImageError as error:
            images[uid], refusals[uid] = Images(series[uid]), str(error)
    return images, refusals


def _dicom_case(series: Series, drawn: _Drawn, images: Images, beside: Counter[Path], refusal: str) -> DicomCase:
    """`beside` counts by folder what could not be read."""
    num_unread = sum(beside[folder] for folder in {path.parent for path in (*series.files, *drawn.paths)})
    lost = lost_images(drawn.pairings, num_unread)
    return DicomCase(
        name=series.name,
        key=series.uid,
        patient_key=series.patient_key,
        ct_files=images.plain.files,
        structure_sets=tuple(drawn.paths),
        pairing=", ".join(dict.fromkeys(pairing.reason for pairing in drawn.pairings)),
        contrast_files=images.contrast.files if images.contrast else (),
        drawn_on_contrast=images.contrast is series,
        warnings=(*(warning for pairing in drawn.pairings for warning in pairing.warnings), *lost, *images.warnings),
        refusal=next((pairing.refusal for pairing in drawn.pairings if pairing.refusal), refusal),
    )


def _undrawn(
    series: Mapping[str, Series], used: set[str], beside: Counter[Path]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Returns warnings for series beside their patient's drawn one, and refusals for patients with none drawn."""
    patients = {series[uid].patient_key for uid in used}
    rest = [each for uid, each in series.items() if uid not in used]
    left_out = [
        f"{each.name}: left out, no RTSTRUCT refers to it; export one that does if it shall be a case too"
        for each in rest
        if each.patient_key in patients
    ]
    without = [
        (each.name, f"no RTSTRUCT refers to this CT series{_may_be(beside[each.files[0].parent])} with the CT")
        for each in rest
        if each.patient_key not in patients
    ]
    return tuple(left_out), tuple(without)


def _may_be(num_unread: int) -> str:
    """Returns what is expected in words, and that it may lie there, unreadable."""
    if not num_unread:
        return "; expected one with the target; export it"
    return (
        f", but {counted(num_unread, 'file')} beside it cannot be read; expected one with the target; copy what cannot "
        "be read again, or export the RTSTRUCT"
    )
