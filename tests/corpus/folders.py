"""Odd folders: what lies beside a good case, and files that are named or stored in odd ways."""

import os
import shutil
import zipfile

from corpus.entry import UNREAD, dicom, save
from corpus.phantom import make_case, make_slices, new_file
from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def zipped(folder):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for path in folder.glob("*.dcm"):
            archive.write(path, path.name)


def hidden(folder):
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "._ct-001.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "notes").write_text("nothing")


def looped(folder):
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "nowhere").symlink_to(folder / "missing")


def linked(folder):
    """The structure set is a link to a file elsewhere, and a linked folder beside it holds a copy of everything."""
    elsewhere = folder.parent.parent / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (folder / "rt.dcm").unlink()
    (folder / "rt.dcm").symlink_to(elsewhere / "rt.dcm")
    (folder / "copies").symlink_to(elsewhere)


def unreadable(folder):
    """A file that exists and cannot be read, whoever asks."""
    (folder / "broken.dcm").symlink_to("/proc/self/mem")


def renamed_in_latin_1(folder):
    """As old archives and discs name patients' folders."""
    folder.rename(folder.with_name(os.fsdecode("Müller".encode("latin-1"))))


def without_endings(folder):
    for path in folder.glob("*.dcm"):
        path.rename(path.with_suffix(""))


def without_preamble(folder):
    for path in folder.glob("*.dcm"):
        path.write_bytes(path.read_bytes()[132:])


def without_meta(folder):
    """As before DICOM had files: no preamble, no meta group, implicit VR."""
    for path in folder.glob("*.dcm"):
        bare = Dataset(dcmread(path))
        bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        data = path.read_bytes()
        path.write_bytes(data[data.index(b"\x08\x00") :])


def with_dicomdir(folder):
    """An export medium: the files once more in folders of their own, with a DICOMDIR."""
    files = FileSet()
    for path in sorted(folder.glob("ct-*.dcm")):
        dataset = dcmread(path)
        for keyword, value in {"StudyDate": "20200102", "StudyTime": "1200", "StudyID": "1", "SeriesNumber": 1}.items():
            setattr(dataset, keyword, value)
        dataset.InstanceNumber = int(path.stem[-3:])
        files.add(dataset)
        path.unlink()
    files.write(folder / "medium")
    files._stage["t"].cleanup()  # else it warns when collected


def with_other_objects(folder):
    case = make_case()
    slices = make_slices(case)
    for dataset in slices:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    save(folder / "captures", slices)
    localiser = make_slices(case, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[:1]
    save(folder / "scout", localiser)
    for name, uid in {"plan": "1.2.840.10008.5.1.4.1.1.481.5", "dose": "1.2.840.10008.5.1.4.1.1.481.2"}.items():
        new_file(uid, Modality="RT", PatientID="P1").save_as(folder / f"{name}.dcm", enforce_file_format=True)


def a_copy_of_every_slice(folder):
    for path in sorted(set(folder.glob("*.dcm")) - {folder / "rt.dcm"}):
        (folder / f"copy of {path.name}").write_bytes(path.read_bytes())


def a_copy_of_the_structure_set(folder):
    (folder / "more").mkdir()
    shutil.copy(folder / "rt.dcm", folder / "more" / "rt.dcm")


def a_correction(folder):
    """Another structure set of the same contours, an instance of its own."""
    dataset = dcmread(folder / "rt.dcm")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.save_as(folder / "second.dcm")


def one_identity_two_contents(folder):
    dataset = dcmread(folder / "rt.dcm")
    del dataset.ROIContourSequence[0].ContourSequence[0]
    dataset.save_as(folder / "second.dcm")


def two_patients_mixed(slices, _):
    """Slices of two patients in one folder; only the first is drawn."""
    slices += make_slices(make_case(), PatientID="P2", SeriesInstanceUID=generate_uid())


def deep(folder):
    place = folder / "a" / "b c" / "d;e" / "f\\g"
    place.mkdir(parents=True)
    for path in folder.glob("*.dcm"):
        os.replace(path, place / path.name)


ENTRIES = [
    dicom("a zip beside", after=zipped),
    dicom("hidden files", after=hidden),
    dicom("zero-byte files", after=write("empty.dcm", b"")),
    dicom("text named .dcm", after=write("readme.dcm", b"this is no DICOM file but names itself so " * 9)),
    dicom("a file of the prefix alone", after=write("prefix.dcm", b"\0" * 128 + b"DICM"), beside="prefix.dcm",
          warned=UNREAD),
    dicom("noise after the prefix", after=write("noise.dcm", b"\0" * 128 + b"DICM" + bytes(range(256)) * 4),
          beside="noise.dcm", warned=UNREAD),
    dicom("symlinks in loops", after=looped, warned="1 linked folder passed over, such as p1/loop; give the folder"),
    dicom("a linked file and a linked folder", after=linked, warned="1 linked folder passed over, such as p1/copies"),
    dicom("an unreadable file", after=unreadable, beside="broken.dcm: not readable as DICOM (OSError)",
          warned=UNREAD),
    dicom("no file endings", after=without_endings),
    dicom("no preamble", after=without_preamble),
    dicom("no preamble and no meta group", after=without_meta),
    dicom("a DICOMDIR", after=with_dicomdir),
    dicom("plans, doses, captures and localisers beside", after=with_other_objects),
    dicom("every slice twice", after=a_copy_of_every_slice, warned="are copies of its slices"),
    dicom("the structure set twice", after=a_copy_of_the_structure_set, warned="p1/rt.dcm is a copy of more/rt.dcm"),
    dicom("a structure set and its correction", after=a_correction,
          refused="hold a target: p1/rt.dcm (GTVnx of about 7.1 ml, not approved), p1/second.dcm (GTVnx of about"),
    dicom("two structure sets of one identity", after=one_identity_two_contents, refused="2 structure sets of this CT"),
    dicom("another patient's slices between", two_patients_mixed, beside="no RTSTRUCT refers to this CT series"),
    dicom("deep folders with odd names", after=deep),
    dicom("a folder whose name is no UTF-8", after=renamed_in_latin_1, refused="M?ller/ct"),
]  # fmt: skip
