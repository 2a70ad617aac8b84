"""T stages of a site's patients, from a table that the site keeps: the only fact of a patient in the case index."""

import csv
from pathlib import Path

from common.errors import InputError

STAGES = ("T1", "T2", "T3", "T4")
COLUMNS = ("patient", "stage")
SEPARATORS = (",", ";", "\t")
"""The one that line 1 has most of; spreadsheets write the second where a comma parts decimals."""


def read_stages(path: Path) -> dict[str, str]:
    """Returns the stage by patient from a CSV with the columns `patient` and `stage`; others are passed over.

    Columns are parted by comma, semicolon or tab. A patient is a PatientID, or a NIfTI case folder. Rows without a
    stage say nothing.

    Raises:
        InputError: the file cannot be read, lacks a column, or a line holds another stage, no patient, or a patient
            with two stages; the message names the line, never the patient.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); give a CSV with columns patient and stage") from error
    lines = text.splitlines()
    separator = max(SEPARATORS, key=lines[0].count) if lines else SEPARATORS[0]
    rows = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}; expected patient and stage; name them in line 1")
    stages: dict[str, str] = {}
    for row in rows:
        patient, stage = ((row[column] or "").strip() for column in COLUMNS)
        if stage:
            _check(f"{path}, line {rows.line_num}", patient, stage.upper(), stages)
            stages[patient] = stage.upper()
    return stages


def _check(where: str, patient: str, stage: str, known: dict[str, str]) -> None:
    if stage not in STAGES:
        raise InputError(f"{where}: stage is {stage!r}; expected one of {', '.join(STAGES)}, or nothing; correct it")
    if not patient:
        raise InputError(f"{where}: has a stage but no patient; expected a PatientID or a case folder; add it")
    if known.get(patient, stage) != stage:
        raise InputError(f"{where}: gives a patient a second stage; expected one; keep the one that is valid")
