"""Import: an export becomes a folder of pseudonymous cases with an index, whole or not at all, case by case."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from client.case_jobs import CaseOutcome, Job, Task, run_job, run_jobs, suitable_processes
from client.case_store import CaseStore, opened
from client.dicom_case import DicomCase
from client.exports import ExportedCase, find_cases
from client.import_report import Action, CaseLine, ImportReport
from client.one_patient import one_or_many
from client.pseudonyms import KnownCase
from common.errors import InputError
from common.settings import fingerprint
from common.site_config import IngestConfig

FORMAT = 3  # of an imported case; a higher number imports all again
NO_STAGES: Mapping[str, str] = MappingProxyType({})

Progress = Callable[[int, int, str], None]
"""Called with the number of cases done, the number in all, and the name of the next (empty at the end)."""


def import_folder(
    source: Path,
    cases: Path,
    config: IngestConfig,
    site: str,
    progress: Progress = lambda done, total, name: None,
    *,
    num_processes: int = 1,
    dry_run: bool = False,
    list_all: bool = False,
    stages: Mapping[str, str] = NO_STAGES,
) -> ImportReport:
    """Imports what is new or changed in an export, DICOM or NIfTI, into `cases`; what lies there is none of it.

    Every case becomes `cases`/PSEUDONYM/image.nii.gz and label.nii.gz (contrast.nii.gz with a second image,
    truth.nii.gz if the export has one), for their owner alone, and an entry of the index; a refused one leaves nothing,
    and an earlier import of it stays as it was. Interrupted, it goes on where it stopped when called again. Cases are
    told apart by series UID (DICOM) or folder name (NIfTI); pseudonyms are counted in the order of the export.

    Args:
        source: the export.
        cases: made if it is missing.
        config: what is the target, and what the images are.
        site: its name begins every pseudonym.
        progress: is told before every case.
        num_processes: cases that are read at a time; 0: as many as suit the machine and the work.
        dry_run: everything is read and nothing is written.
        list_all: cases that have not changed are looked into too, to list their structures.
        stages: of patients, by PatientID or NIfTI case folder.

    Raises:
        ImageError: there is no such folder, or nothing in it that could be a case.
        InputError: the cases folder's index or pseudonyms are damaged, or these do not know all cases of that.
        WorkError: another import is at work in the folder, the disk is full, or a process was ended by the system.
    """
    cases = Path(cases)
    export = find_cases(source, config, own=cases)
    lines = [
        CaseLine(name, "refused", reason, unread="denied" if is_denied else "damaged")
        for name, reason, is_denied in export.unread
    ]
    warnings = list(export.warnings)
    with _store(cases, site, dry_run) as store:
        store.check_whole()
        lines += [_undrawn(*each, store) for each in export.refused]
        plans = [_plan(case, store, config) for case in store.recognised(export.cases)]
        jobs = [_job(number, plan, store, config, dry_run, list_all) for number, plan in enumerate(plans)]
        with closing(run_jobs(jobs, num_processes or suitable_processes(jobs))) as outcomes:
            for number, (plan, job) in enumerate(zip(plans, jobs, strict=True)):
                progress(number, len(plans), plan.case.name)
                outcome = next(outcomes)
                lines.append(_line(plan, outcome, store))
                warnings += [f"{plan.case.name}: {warning}" for warning in outcome.warnings]
                if job.task == "write" and not outcome.refusal:
                    content = (plan.content, plan.case.looked_for(config), outcome.found.identity)
                    case_id = store.add(plan.case, job.folder, outcome.num_images, outcome.info, content)
                    lines[-1] = replace(lines[-1], case_id=case_id)
        warnings += _one_or_many(plans, lines[len(lines) - len(plans) :], store)
        warnings += _strangers(stages, export.cases, store)
        if not dry_run:
            unchanged = [plan.case for plan in plans if plan.action == "unchanged"]
            store.confirm({case.key: case.looked_for(config) for case in unchanged})
            store.set_stages(stages)
    progress(len(plans), len(plans), "")
    return ImportReport(tuple(lines), tuple(warnings), dry_run)


def _store(cases: Path, site: str, dry_run: bool) -> AbstractContextManager[CaseStore]:
    return nullcontext(CaseStore(cases, site)) if dry_run else opened(cases, site)


@dataclass(frozen=True)
class _Plan:
    """What is to be done with a case, before it is read."""

    case: ExportedCase
    action: Action
    content: str
    reason: str = ""
    """Why it is refused before it is read, or not brought back."""


def _plan(case: ExportedCase, store: CaseStore, config: IngestConfig) -> _Plan:
    content = _content(case, config)
    try:
        store.check_source(case)
    except InputError as error:
        return _Plan(case, "refused", content, str(error))
    if store.is_unchanged(case, content, case.looked_for(config), lambda: _target(case, config)):
        return _Plan(case, "unchanged", content)
    removed = store.removed(case)
    if removed is not None:
        return _Plan(case, "removed", content, _on_purpose(removed))
    return _Plan(case, "changed" if store.known(case.key) else "new", content)


def _target(case: ExportedCase, config: IngestConfig) -> str:
    """Returns which target would be chosen, empty if none could."""
    return run_job(Job(case, config, "list", Path())).found.identity


def _on_purpose(removed: KnownCase) -> str:
    return (
        f"was taken out on purpose as {removed.case_id}; to have it back: `fedgtv-site remove --undo "
        f"{removed.case_id}`, then import again"
    )


def _job(number: int, plan: _Plan, store: CaseStore, config: IngestConfig, dry_run: bool, list_all: bool) -> Job:
    task: Task = "read" if dry_run else "write"
    if plan.action in ("unchanged", "removed"):
        task = "list" if list_all else "nothing"
    elif plan.reason:
        task = "list"
    return Job(plan.case, config, task, store.staging / str(number))


def _line(plan: _Plan, outcome: CaseOutcome, store: CaseStore) -> CaseLine:
    """Returns a case's line; an unchanged or removed case is not refused, whatever is found in it."""
    case, action, reason = plan.case, plan.action, plan.reason
    if action in ("new", "changed") and outcome.refusal:
        action, reason = "refused", outcome.refusal
    in_use, removed = store.known(case.key), store.removed(case)
    if action == "refused" and in_use:
        reason += _stays(in_use)
    known = in_use or removed
    return CaseLine(
        name=case.name,
        action=action,
        reason=reason,
        case_id=known.case_id if known else "",
        images=case.images,
        structure_sets=tuple(path.name for path in case.structure_sets),
        pairing=case.pairing,
        found=outcome.found,
    )


def _undrawn(key: str, name: str, reason: str, store: CaseStore) -> CaseLine:
    """Returns the line of a series or structure set without the other; the series may have been imported before."""
    in_use = store.known(key)
    return CaseLine(name, "refused", reason + (_stays(in_use) if in_use else ""), in_use.case_id if in_use else "")


def _stays(in_use: KnownCase) -> str:
    return f"; case {in_use.case_id} of an earlier import stays in use as it was"


def _one_or_many(plans: Sequence[_Plan], lines: Sequence[CaseLine], store: CaseStore) -> tuple[str, ...]:
    """Returns warnings of PatientIDs that may be several patients'; what is not imported plays no part."""
    usable = [
        (plan.case, line.action)
        for plan, line in zip(plans, lines, strict=True)
        if isinstance(plan.case, DicomCase) and line.action not in ("refused", "removed")
    ]
    new = {case.key for case, action in usable if action == "new"}
    return one_or_many([case for case, _ in usable], new, store.pseudonyms)


def _strangers(stages: Mapping[str, str], cases: Sequence[ExportedCase], store: CaseStore) -> list[str]:
    """Returns a warning if stages were given for nobody."""
    known = {case.patient_key for case in cases} | set(store.pseudonyms.patients)
    strangers = sorted(set(stages) - known)
    if not strangers:
        return []
    return [
        f"stages: {len(strangers)} of {len(stages)} patients, such as {strangers[0]!r}, are neither in this export nor "
        "imported before; expected PatientIDs or NIfTI case folders; correct them in the table"
    ]


def _content(case: ExportedCase, config: IngestConfig) -> str:
    """Returns a hash of a case's content: names, sizes and times of its files, and what decides what becomes of them.

    Of the configuration only what touches this case is in it; the target that it chooses is told apart by itself.
    """
    digest = hashlib.sha256(fingerprint(FORMAT, *case.decided_by(config)).encode())
    for path in case.files:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
