"""The table of T stages: T1 to T4, each patient once, errors by line and never by patient."""

import pytest

from client.stages import read_stages
from common.errors import InputError


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "stages.csv").write_text(text, encoding="utf-8-sig")
        return tmp_path / "stages.csv"

    return write


def test_stages_are_read_by_patient(table):
    path = table("name,stage, patient\nMeier,t3, 007\nHuber,,008\nMüller,T1,009\nMeier again,T3,007\n")
    assert read_stages(path) == {"007": "T3", "009": "T1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient,stage\nsecret,T5\n", "line 2: stage is 'T5'; expected one of T1, T2, T3, T4"),
        ("patient,stage\nsecret,T2N1\n", "line 2: stage is 'T2N1'"),
        ("patient,stage\nsecret,T2\nsecret,T3\n", "line 3: gives a patient a second stage"),
        ("patient,stage\n,T2\n", "line 2: has a stage but no patient"),
        ("patient stage\nsecret T2\n", "has no column 'patient'"),
        ("", "has no column 'patient'"),
    ],
)
def test_a_line_at_fault_is_named_and_its_patient_is_not(table, text, words):
    with pytest.raises(InputError) as caught:
        read_stages(table(text))
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheet_s_other_separators(table, separator):
    text = "patient;note;stage\nP1;a, b, c;T2\n".replace(";", separator)
    assert read_stages(table(text)) == {"P1": "T2"}


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: cannot be read \(No such file"):
        read_stages(tmp_path / "none.csv")
