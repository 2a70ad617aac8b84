"""Several CTs under one PatientID: a patient who was scanned again, or many whom an anonymisation made one."""

from collections.abc import Collection, Sequence

from client.dicom_case import DicomCase
from client.pseudonyms import Pseudonyms
from common.text import counted

SHOWN = 3
"""Names in a message."""


def one_or_many(cases: Sequence[DicomCase], new: Collection[str], pseudonyms: Pseudonyms) -> tuple[str, ...]:
    """Returns a warning for each PatientID that a new case shares with a CT in another frame of reference.

    Nothing in an export tells the two apart, and a patient's cases are all trained on or all held out. A patient's
    earlier imports count as well, in whatever frame they are.

    Args:
        cases: all of an export that can be used.
        new: keys of those that are not imported yet, of which alone is asked.
        pseudonyms: what was imported before.
    """
    alike: dict[str, list[DicomCase]] = {}
    for case in cases:
        alike.setdefault(case.patient_key, []).append(case)
    told = []
    for patient_key, own in alike.items():
        first = next((case for case in own if case.key in new), None)
        if first is None:
            continue
        others = [case.name for case in own if case is not first and case.frame_uid != first.frame_uid]
        others += _earlier(patient_key, {case.key for case in own}, pseudonyms)
        if others:
            told.append(_told(first.name, others))
    return tuple(told)


def _earlier(patient_key: str, here: Collection[str], pseudonyms: Pseudonyms) -> list[str]:
    """Returns the pseudonyms of the patient's cases that this export does not hold."""
    patient_id = pseudonyms.patients.get(patient_key)
    known = {key: case for key, case in pseudonyms.cases.items() if key not in here and not case.removed}
    return [case.case_id for case in known.values() if case.patient_id == patient_id]


def _told(name: str, others: Sequence[str]) -> str:
    shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
    return (
        f"{name}: has the PatientID of {counted(len(others), 'CT')} in another frame of reference or of an earlier "
        f"import, {shown}: one patient or many? As one they share a pseudonym, and are all trained on or all held "
        "out; if they are many, export them with a PatientID each, and import that into an empty folder for `cases`"
    )
