"""One PatientID for several CTs: asked about once, where a new case makes it a question."""

from pathlib import Path

from client.dicom_case import DicomCase
from client.one_patient import one_or_many
from client.pseudonyms import KnownCase, Pseudonyms

NOBODY = Pseudonyms()


def case(name, patient="p", frame=None):
    return DicomCase(name, name, patient, (Path(name, "1.dcm"),), (), frame_uid=frame or name)


def test_other_frames_of_one_patient_id_are_asked_about_in_one_line_each_patient():
    cases = [case("a"), case("b"), case("c", "q"), case("d", "q"), case("e", "alone")]
    lines = one_or_many(cases, {each.key for each in cases}, NOBODY)
    assert [line.partition(" in another frame")[0] for line in lines] == [
        "a: has the PatientID of 1 CT",
        "c: has the PatientID of 1 CT",
    ]


def test_one_frame_is_one_patient():
    assert one_or_many([case("a", frame="1"), case("b", frame="1")], {"a", "b"}, NOBODY) == ()


def test_nothing_new_asks_nothing():
    assert one_or_many([case("a"), case("b")], (), NOBODY) == ()


def test_the_new_one_is_named_first_and_three_others():
    (line,) = one_or_many([case(name) for name in "abcdef"], {"d"}, NOBODY)
    assert line.startswith("d: has the PatientID of 5 CTs ")
    assert "import, a, b, c, ...: one patient or many?" in line


def test_earlier_cases_count_unless_they_were_removed_or_are_here():
    earlier = {key: KnownCase(f"A-000{key}", "A-0001", "", "") for key in "123"}
    earlier["3"] = KnownCase("A-0003", "A-0001", "", "", removed=True)
    earlier["4"] = KnownCase("A-0004", "A-0002", "", "")
    pseudonyms = Pseudonyms({"p": "A-0001", "q": "A-0002"}, earlier)
    (line,) = one_or_many([case("new", frame="1"), case("1", frame="1")], {"new"}, pseudonyms)
    assert line.startswith("new: has the PatientID of 1 CT ")
    assert "import, A-0002: one patient" in line
