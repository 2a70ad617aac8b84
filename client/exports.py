"""What an export holds: CT series paired with RTSTRUCTs, and NIfTI case folders; found by headers, not yet read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.export_case import DicomCase, ExportedCase, NiftiCase
from common.config import IngestConfig
from common.dicom import scan_folder
from common.dicom_files import open_dicom, reading
from common.errors import ImageError, InputError, LabelError
from common.rtstruct import read_references


@dataclass(frozen=True)
class Export:
    """The cases of an export in a fixed order, and what could not become one."""

    cases: tuple[ExportedCase, ...]
    refused: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _SeriesHead:
    name: str
    files: tuple[Path, ...]
    patient_key: str
    frame_uid: str


def find_cases(source: Path, config: IngestConfig) -> Export:
    """Returns all cases anywhere below `source`, DICOM and NIfTI.

    Raises:
        ImageError: `source` is no folder, or holds neither a CT series nor an image of the configured name.
    """
    source = Path(source)
    found = scan_folder(source)
    nifti = _nifti_cases(source, config)
    if not found.ct_series and not nifti:
        raise ImageError(
            f"{source}: no CT among {found.num_files} files; expected DICOM CT slices or <case>/{config.image_name}; "
            "export the planning CT into this folder"
        )
    heads = _series_heads(source, found.ct_series)
    drawn, warnings, refused = _pair_all(source, found.structure_sets, heads)
    dicom = [
        DicomCase(head.name, uid, head.patient_key, head.files, tuple(drawn[uid]), tuple(warnings[uid]))
        for uid, head in heads.items()
        if drawn[uid]
    ]
    left_out, without = _undrawn(heads, {case.key for case in dicom})
    damaged = [(_shown(path, source), reason) for path, reason in found.unreadable]
    return Export((*dicom, *nifti), (*damaged, *refused, *without), left_out)


def _nifti_cases(source: Path, config: IngestConfig) -> tuple[NiftiCase, ...]:
    names = (config.image_name, config.label_name)
    folders = sorted({path.parent for name in names for path in source.rglob(name)})
    keys = [folder.relative_to(source).as_posix() for folder in folders]
    keys = [source.resolve().name if key == "." else key for key in keys]
    return tuple(NiftiCase(key, key, folder, config) for key, folder in zip(keys, folders, strict=True))


def _series_heads(source: Path, series: Mapping[str, tuple[Path, ...]]) -> dict[str, _SeriesHead]:
    """Returns what pairing needs to know of every series, ordered by folder."""
    folders = [files[0].parent for files in series.values()]
    heads = {}
    for uid, files in sorted(series.items(), key=lambda item: item[1][0]):
        with reading(files[0], ImageError, "a CT slice"):
            header = open_dicom(files[0], ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
            patient = str(header.get("PatientID") or "").strip() or str(header.get("StudyInstanceUID") or uid)
            frame_uid = str(header.get("FrameOfReferenceUID") or "")
        folder = files[0].parent
        name = _shown(folder, source) + (f" (series {uid})" if folders.count(folder) > 1 else "")
        heads[uid] = _SeriesHead(name, files, patient, frame_uid)
    return heads


def _pair_all(
    source: Path, structure_sets: Sequence[Path], heads: Mapping[str, _SeriesHead]
) -> tuple[dict[str, list[Path]], dict[str, list[str]], list[tuple[str, str]]]:
    """Returns structure sets and warnings by series, and the structure sets that fit none, with reasons."""
    drawn: dict[str, list[Path]] = {uid: [] for uid in heads}
    warnings: dict[str, list[str]] = {uid: [] for uid in heads}
    refused = []
    for path in structure_sets:
        try:
            uid, warning = _pair(path, heads)
        except InputError as error:
            refused.append((_shown(path, source), str(error)))
            continue
        drawn[uid].append(path)
        warnings[uid] += warning
    return drawn, warnings, refused


def _pair(path: Path, heads: Mapping[str, _SeriesHead]) -> tuple[str, list[str]]:
    """Returns the series a structure set was drawn on, by name or else by frame of reference, and any warning."""
    references = read_references(path)
    named = [uid for uid in references.series_uids if uid in heads]
    if len(named) == 1:
        return named[0], []
    in_frame = [uid for uid, head in heads.items() if head.frame_uid and head.frame_uid in references.frame_uids]
    candidates = named or in_frame
    if len(candidates) == 1:
        return candidates[0], [
            f"{path.name} refers to CT series {', '.join(references.series_uids) or 'none'}, which is not in the "
            f"export; paired with {candidates[0]} by frame of reference; see that it was drawn on this CT, else leave "
            "it out of the export"
        ]
    if candidates:
        raise LabelError(
            f"{path.name} fits {len(candidates)} CT series: {', '.join(heads[uid].name for uid in candidates)}; "
            "expected one; export only the series it was drawn on"
        )
    raise LabelError(
        f"{path.name} refers to CT series {', '.join(references.series_uids) or 'none'}, and no CT in the export has "
        "that identity or its frame of reference; export the CT with it"
    )


def _undrawn(heads: Mapping[str, _SeriesHead], drawn: set[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Returns warnings for series beside their patient's drawn one, and refusals for patients with none drawn."""
    patients = {heads[uid].patient_key for uid in drawn}
    rest = [head for uid, head in heads.items() if uid not in drawn]
    beside = [
        f"{head.name}: left out, no RTSTRUCT refers to it; export one that does if it shall be a case too"
        for head in rest
        if head.patient_key in patients
    ]
    without = [
        (head.name, "no RTSTRUCT refers to this CT series; expected one with the target; export it with the CT")
        for head in rest
        if head.patient_key not in patients
    ]
    return tuple(beside), tuple(without)


def _shown(path: Path, source: Path) -> str:
    return source.resolve().name if path == source else path.relative_to(source).as_posix()
