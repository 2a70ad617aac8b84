"""Identifiers planted wherever an export has room for them appear nowhere but in the pseudonym key."""

import gzip
import json
import logging
import struct

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement

from client.cli import main
from client.pseudonyms import FILE_NAME
from client.site import Site
from common.split import SplitConfig
from common.tasks import StatisticsTask
from common.volume import Geometry, Volume, write_nifti

GRID = Geometry((16, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, 0.0))
KEYWORDS = (
    *("PatientName", "PatientID", "OtherPatientIDs", "PatientAddress", "PatientComments", "AccessionNumber"),
    *("StudyDescription", "SeriesDescription", "StudyID", "InstitutionName", "ReferringPhysicianName"),
    *("OperatorsName", "StationName", "DeviceSerialNumber", "ProtocolName", "ImageComments", "Manufacturer"),
    *("ManufacturerModelName", "ConvolutionKernel", "ContrastBolusAgent"),
)
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
STRUCTURE_KEYWORDS = ("StructureSetLabel", "StructureSetName", "StructureSetDescription", "ReviewerName")


class Planted:
    """Makes identifiers, each for one place, and knows them all."""

    def __init__(self):
        self.places = {}

    def __call__(self, place):
        """Nine letters and digits that stand nowhere else, the same for the same place."""
        return self.places.setdefault(place, f"QZ{len(self.places):02d}WXKVJ")

    def uid(self, place):
        return f"1.2.826.0.1.{self.places.setdefault(place, f'7391{len(self.places):02d}50828')}"


def item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def plant_in_slice(dataset, planted):
    for keyword in KEYWORDS:
        setattr(dataset, keyword, planted(f"CT {keyword}"))
    for group, creator in {0x0009: "PRIVATE A", 0x7FE3: "PRIVATE B"}.items():
        block = dataset.private_block(group, creator, create=True)
        block.add_new(0x01, "LO", planted(f"private group {group:x}"))
    dataset.add(DataElement(0x50003000, "OW", planted("curve data").encode() + b"\0"))
    overlay = {0x60000010: ("US", 24), 0x60000011: ("US", 24), 0x60000040: ("CS", "G"), 0x60000050: ("SS", [1, 1])}
    overlay |= {0x60000100: ("US", 1), 0x60000102: ("US", 0), 0x60001500: ("LO", planted("overlay label"))}
    overlay |= {0x60003000: ("OW", planted("overlay data").encode().ljust(72, b"\0"))}  # 24 x 24 bits
    for tag, (representation, value) in overlay.items():
        dataset.add(DataElement(tag, representation, value))
    dataset.add(DataElement(0xFFFCFFFC, "OB", planted("trailing padding").encode() + b"\0"))
    dataset.RequestAttributesSequence = [item(RequestedProcedureDescription=planted("nested item"))]
    dataset.preamble = planted("preamble").encode().ljust(128, b"\0")


@pytest.fixture
def dicom_export(tmp_path, write_ct, write_structures, tiny_hu):
    """A DICOM patient with identifiers in tags, paths and file names."""

    def write(planted):
        folder = tmp_path / "export" / planted("CT folder")
        uids = {keyword: planted.uid(f"CT {keyword}") for keyword in UIDS}
        slices = write_ct(
            folder, tiny_hu, (4.0, 4.0, 4.0), GRID.origin_mm, lambda each, _: plant_in_slice(each, planted), **uids
        )
        for path in list(folder.iterdir()):
            path.rename(folder / f"{planted('CT file')}{path.name}")
        square = np.array([[-20.0, -20, 24], [-8, -20, 24], [-8, -8, 24], [-20, -8, 24]])
        name = f"GTV {planted('ROI name')}"
        path = write_structures(folder / f"{planted('structure set file')}.dcm", slices, {name: [square]})
        plant_in_structures(path, planted)

    return write


def plant_in_structures(path, planted):
    dataset = dcmread(path)
    for keyword in STRUCTURE_KEYWORDS:
        setattr(dataset, keyword, planted(f"RTSTRUCT {keyword}"))
    dataset.StructureSetROISequence[0].ROIDescription = planted("ROI description")
    dataset.RTROIObservationsSequence[0].ROIObservationLabel = planted("observation label")
    dataset.RTROIObservationsSequence[0].ROIInterpreter = planted("interpreter")
    dataset.preamble = planted("RTSTRUCT preamble").encode().ljust(128, b"\0")
    dataset.save_as(path)


def plant_in_nifti(path, planted):
    """Fills all text of a NIfTI-1 header, an extension, and the name in the gzip header."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    fields = {"data_type": 4, "db_name": 14, "descrip": 148, "aux_file": 228, "intent_name": 328}
    for field, start in fields.items():
        text = planted(f"{path.name} {field}").encode()
        data[start : start + len(text)] = text
    comment = struct.pack("<ii", 32, 6) + planted(f"{path.name} extension").encode().ljust(24, b"\0")
    data[108:112] = struct.pack("<f", 352.0 + len(comment))
    data[348] = 1
    data[352:352] = comment
    with path.open("wb") as file, gzip.GzipFile(planted(f"{path.name} gzip name"), "wb", 1, file) as packed:
        packed.write(data)


def nifti_export(folder, planted, hu, label):
    folder = folder / planted("NIfTI folder")
    folder.mkdir(parents=True)
    for name, array in {"ct": hu, "gtv": label, "truth": label, "ce": hu}.items():
        write_nifti(Volume(array, GRID), folder / f"{name}.nii.gz")
        plant_in_nifti(folder / f"{name}.nii.gz", planted)
    return folder.name


def contents(folder):
    """Path and content of every file, and what is in it if it is compressed."""
    for path in folder.rglob("*"):
        yield path, str(path.relative_to(folder)).encode()
        if path.is_file() and path.name != FILE_NAME:
            data = path.read_bytes()
            yield path, data
            if data[:2] == b"\x1f\x8b":
                yield path, gzip.decompress(data)


def test_no_identifier_is_found_outside_the_key(
    tmp_path, command, caplog, dicom_export, tiny_hu, tiny_label, tiny_recipe
):
    caplog.set_level(logging.DEBUG)
    planted = Planted()
    dicom_export(planted)
    name = nifti_export(tmp_path / "export", planted, tiny_hu, tiny_label)
    (tmp_path / "site.yaml").write_text("{site: A, device: cpu, ingest: {contrast_name: ce.nii.gz}}")
    (tmp_path / "stages.csv").write_text(f"patient,stage,name\n{name},T3,{planted('name in the table')}\n")
    arguments = ("import", tmp_path / "export", "--config", tmp_path / "site.yaml", "--jobs", 2)
    ended = command(main, *arguments, "--stages", tmp_path / "stages.csv")
    assert (ended.code, ended.out.splitlines()[0]) == (0, "2 imported, 0 unchanged, 0 refused"), ended.err
    site = Site.open(tmp_path / "site.yaml").for_own_eyes()
    site.statistics(StatisticsTask(experiment="e", recipe=tiny_recipe, split=SplitConfig()))  # fills cache and splits
    ended = command(main, "check", "--config", tmp_path / "site.yaml")
    printed = [ended.out, ended.err]
    (tmp_path / "cases" / "A-0001" / "label.nii.gz").write_bytes(b"damaged")
    site.statistics(StatisticsTask(experiment="e", recipe=tiny_recipe, split=SplitConfig(seed=1)))
    assert "case A-0001 is left out" in caplog.text
    ended = command(main, "check", "--config", tmp_path / "site.yaml", "--page", tmp_path / "state" / "damaged.html")
    printed += [ended.out, ended.err]
    entries = json.loads((tmp_path / "cases" / "cases.json").read_text())["cases"]
    assert [set(entry["info"]) for entry in entries] == [{"spacing_mm", "size"}, {"spacing_mm", "size", "stage"}]
    assert len(planted.places) >= 60
    written = [each for folder in ("cases", "state", "work") for each in contents(tmp_path / folder)]
    assert len({path for path, _ in written if path.is_file()}) >= 15
    assert {"check.html", "damaged.html"} <= {path.name for path, _ in written}
    written += [("the log", caplog.text.encode()), ("the check", "".join(printed).encode())]
    assert found_in(written, planted) == set()


def found_in(written, planted):
    """The places whose text stands in what was written, with the file that it stands in."""
    return {
        (place, str(path))
        for place, text in planted.places.items()
        for path, data in written
        if text.lower().encode() in data.lower() or text.encode("utf-16-le") in data
    }


def test_the_search_finds_what_is_there(tmp_path, tiny_label, dicom_export):
    """The planted text is really in the sources, DICOM and NIfTI, so that its absence tells something."""
    planted = Planted()
    dicom_export(planted)
    num_dicom = len(planted.places)
    name = nifti_export(tmp_path / "export", planted, tiny_label, tiny_label)
    assert name == planted.places["NIfTI folder"]
    assert (num_dicom >= 40, len(planted.places) - num_dicom >= 20) == (True, True)
    found = {place for place, _ in found_in(list(contents(tmp_path)), planted)}
    assert planted.places.keys() - found == set()
