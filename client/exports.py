"""What an export holds: CT series paired with RTSTRUCTs, and NIfTI case folders; found by headers, not yet read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.completeness import lost_images
from client.contrast import Images, choose_images
from client.copies import told_copies
from client.dicom_case import DicomCase
from client.import_report import unexpected
from client.loaded_case import find_truth
from client.nifti_case import NiftiCase
from client.pairing import Pairing, pair
from client.series import Series, list_series
from common.dicom import scan_folder
from common.errors import ImageError, InputError
from common.file_tree import shown
from common.site_config import IngestConfig
from common.text import counted

ExportedCase = DicomCase | NiftiCase


@dataclass(frozen=True)
class Export:
    """The cases of an export in a fixed order, and what could not become one."""

    cases: tuple[ExportedCase, ...]
    refused: tuple[tuple[str, str, str], ...] = ()
    """Series and structure sets without the other: SeriesInstanceUID (empty of a structure set), name, reason."""
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
        raise ImageError(
            "; ".join([_nothing(source, len(found.files), unread, config), *_linked(source, found.linked)])
        )
    series = list_series(source, found.ct_series, found.headers)
    patients = {path: str(found.headers[path].get("PatientID") or "").strip() for path in found.structure_sets}
    drawn, refused = _pair_all(source, patients, series, config)
    images, refusals = _images(drawn, series, config)
    beside = Counter(path.parent for path, _ in found.unreadable)
    dicom = [
        _dicom_case(source, [series[uid] for uid in uids], drawn, images, beside, _why_not(uids, images, refusals))
        for uids in _together(images)
    ]
    used = {each.uid for chosen in images.values() for each in chosen.all} | set(drawn)
    left_out, without = _undrawn(series, used, beside)
    return Export((*dicom, *nifti), (*refused, *without), (*_linked(source, found.linked), *left_out), unread)


def _linked(source: Path, folders: Sequence[Path]) -> tuple[str, ...]:
    """Returns a warning if there are links to folders: following them may lead anywhere, or in circles."""
    if not folders:
        return ()
    told = f"{counted(len(folders), 'linked folder')} passed over, such as {shown(folders[0], source)}"
    return (f"{told}; give the folder that it leads to, or copy it into the export",)


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
    return tuple(NiftiCase(key, key, folder, config, source) for key, folder in zip(keys, folders, strict=True))


def _pair_all(
    source: Path, patients: Mapping[Path, str], series: Mapping[str, Series], config: IngestConfig
) -> tuple[dict[str, _Drawn], list[tuple[str, str, str]]]:
    """Returns what was drawn by series, in the order of `series`, and the structure sets that fit none, as refused.

    `patients` are the PatientIDs of the structure sets.
    """
    drawn: dict[str, _Drawn] = {uid: _Drawn() for uid in series}
    refused = []
    for path, patient_id in patients.items():
        try:
            pairing = pair(path, patient_id, series, config)
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else unexpected(error)
            refused.append(("", shown(path, source), reason))
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


def _together(images: Mapping[str, Images]) -> list[list[str]]:
    """Returns the series drawn on that make one case: those of one plain CT, which comes first if it is drawn on."""
    groups: dict[str, list[str]] = {}
    for uid, chosen in images.items():
        groups.setdefault(chosen.plain.uid, []).append(uid)
    return [sorted(uids, key=lambda uid: uid != plain) for plain, uids in groups.items()]


def _why_not(uids: Sequence[str], images: Mapping[str, Images], refusals: Mapping[str, str]) -> str:
    """Returns why the images of the series `uids`, drawn on, cannot make a case; empty if they can."""
    contrast = {each.uid: each for uid in uids if (each := images[uid].contrast)}
    reasons = [refusals[uid] for uid in uids if uid in refusals]
    if len(contrast) > 1:
        names = ", ".join(each.name for each in contrast.values())
        reasons.append(
            f"structures are drawn on several images of one plain CT, whose contrast CTs are {names}; expected one "
            "contrast CT; leave the others out of the export, with what is drawn on them"
        )
    return next(iter(reasons), "")


def _dicom_case(
    source: Path,
    drawn_on: Sequence[Series],
    drawn: Mapping[str, _Drawn],
    images: Mapping[str, Images],
    beside: Counter[Path],
    refusal: str,
) -> DicomCase:
    """Returns the case of the series `drawn_on`, which are one, or a plain CT's and its contrast CT's.

    `beside` counts by folder what could not be read.
    """
    first, chosen = drawn_on[0], images[drawn_on[-1].uid]
    sets = {path: each for each in drawn_on for path in drawn[each.uid].paths}
    pairings = [pairing for each in drawn_on for pairing in drawn[each.uid].pairings]
    folders = {path.parent for path in (*(path for each in drawn_on for path in (*each.files, *each.copies)), *sets)}
    truth, passed_over = find_truth(chosen.plain.files[0].parent.parent, source)
    lost = lost_images(pairings, sum(beside[folder] for folder in folders))
    warnings = (
        *(warning for pairing in pairings for warning in pairing.warnings),
        *lost,
        *told_copies([path for each in chosen.all for path in each.copies], source),
        *(warning for each in drawn_on for warning in images[each.uid].warnings),
        *passed_over,
    )
    return DicomCase(
        name=first.name,
        key=first.uid,
        patient_key=first.patient_key,
        ct_files=chosen.plain.files,
        structure_sets=tuple(sets),
        pairing=", ".join(dict.fromkeys(pairing.reason for pairing in pairings)),
        contrast_files=chosen.contrast.files if chosen.contrast else (),
        drawn_on_contrast=tuple(path for path, each in sets.items() if each is chosen.contrast),
        other_key=_other_key(first, chosen),
        truth=truth,
        frame_uid=chosen.plain.frame_uid or chosen.plain.study_uid,
        warnings=warnings,
        refusal=next((pairing.refusal for pairing in pairings if pairing.refusal), refusal),
    )


def _other_key(first: Series, chosen: Images) -> str:
    """Returns the other series of a case: structures may have been drawn on that one at an earlier import."""
    return next((each.uid for each in chosen.all if each is not first), "")


def _undrawn(
    series: Mapping[str, Series], used: set[str], beside: Counter[Path]
) -> tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]:
    """Returns warnings for series beside their patient's drawn one, and refusals for patients with none drawn."""
    patients = {series[uid].patient_key for uid in used}
    rest = [each for uid, each in series.items() if uid not in used]
    left_out = [
        f"{each.name}: left out, no RTSTRUCT refers to it; export one that does if it shall be a case too"
        for each in rest
        if each.patient_key in patients
    ]
    without = [
        (
            each.uid,
            each.name,
            f"no RTSTRUCT refers to this CT series{_may_be(beside[each.files[0].parent])} with the CT",
        )
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
