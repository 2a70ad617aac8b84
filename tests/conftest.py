import hashlib
import io
import logging
import os
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_site
import torch
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from common.bundle import build_bundle
from common.checkpoint import save_weights
from common.dataset import CaseEntry, write_index
from common.logs import LOGGER
from common.model import build_model, model_weights
from common.recipe import (
    AugmentationConfig,
    InferenceConfig,
    NetworkConfig,
    PreprocessConfig,
    Recipe,
    RoiConfig,
    StageConfig,
    TrainingConfig,
)
from common.volume import Geometry, Volume, write_nifti
from server.provision import make_certificates

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"


@pytest.fixture(scope="session")
def run_until() -> Callable[[Any, str], list[str]]:
    """A function that runs a supervised node or worker until it says a line with a text; returns all that it said."""

    def run(supervised: Any, text: str) -> list[str]:
        stop, told = threading.Event(), []

        def hear(line: str) -> None:
            told.append(line)
            if text in line:
                stop.set()

        supervised.report = hear
        supervised.run(stop)
        assert supervised.tree.members() == []
        return told

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the public data sets; the test is skipped where it is absent (mark it `real_data` too)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEDGTV_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder}; set FEDGTV_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def own_bundle() -> bytes:
    """The bundle that this checkout builds; Flower's own imports warn, not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return build_bundle()


@pytest.fixture(scope="session")
def authority_pem(tmp_path_factory) -> str:
    """A true authority's certificate, as a kit holds it."""
    return make_certificates(tmp_path_factory.mktemp("authority"), ["localhost"]).authority.read_text()


@pytest.fixture
def pack_bundle():
    """A function that packs files, by name, as Flower packs a bundle, and a pyproject.toml with them."""

    def pack(**files: bytes) -> bytes:
        named = {name.replace("__", "/") + ".py": data for name, data in files.items()}
        named = {"pyproject.toml": b'[project]\nname = "other"\nversion = "9"\n'} | named
        stated = [f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in named.items()]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (named | {".info/CONTENT": "\n".join(stated).encode()}).items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue()

    return pack


@pytest.fixture(scope="session")
def ellipse_body():
    """A function that returns a body of ellipses on a grid: shoulders end at 100 mm, neck at 130, head 160 to 330 mm.

    It lies with its back 220 mm from the front of the grid.
    """

    def make(shape, spacing_mm):
        z, y, x = (np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True))
        knots = [0, 90, 110, 130, 160, 220, 300, 330]
        width = np.interp(z, knots, [210, 210, 90, 62, 70, 82, 70, 5])[:, None, None]
        depth = np.interp(z, knots, [90, 90, 70, 62, 80, 98, 80, 5])[:, None, None]
        centre_x = shape[2] * spacing_mm[2] / 2
        inside = ((x - centre_x) / width) ** 2 + ((y[:, None] - (220.0 - depth)) / depth) ** 2 <= 1
        inside[z > 335] = False
        return inside

    return make


def _file(path, sop_class, syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    return dataset


@pytest.fixture
def write_ct():
    """A function that writes a CT series of (z, y, x) HU into a folder and returns its slices' datasets.

    `change(dataset, index)` may edit a slice before it is written; returning False leaves it out.
    """

    def write(folder, hu, spacing_mm=(3.0, 1.0, 1.0), origin_mm=(-10.0, -20.0, 30.0), change=None, **tags):
        folder.mkdir(parents=True, exist_ok=True)
        series = {
            "PatientID": "secret-id",
            "PatientName": "Secret^Name",
            "StudyInstanceUID": generate_uid(),
            "SeriesInstanceUID": generate_uid(),
            "FrameOfReferenceUID": generate_uid(),
            "Manufacturer": "SIEMENS",
            "ConvolutionKernel": "B30",
        } | tags
        slices = []
        for index, plane in enumerate(hu):
            dataset = _file(folder / f"ct-{len(hu) - index:03d}.dcm", CT_IMAGE, ExplicitVRLittleEndian)
            for keyword, value in series.items():
                setattr(dataset, keyword, value)
            dataset.Modality = "CT"
            dataset.Rows, dataset.Columns = plane.shape
            dataset.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [*origin_mm[:2], origin_mm[2] + index * spacing_mm[0]]
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
            dataset.PixelRepresentation = 0
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
            dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
            if change is None or change(dataset, index) is not False:
                dataset.save_as(dataset.filename, enforce_file_format=True)
                slices.append(dataset)
        return slices

    return write


@pytest.fixture
def write_structures():
    """A function that writes an RTSTRUCT of {name: contours (N, 3) in mm} that refers to a series' first slice."""

    def write(path, slices, structures, interpreted_type="GTV", series_uid=None, frame_uid=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame_uid = frame_uid or slices[0].FrameOfReferenceUID
        dataset = _file(path, RT_STRUCTURE_SET, ImplicitVRLittleEndian)
        dataset.Modality = "RTSTRUCT"
        dataset.PatientID = slices[0].PatientID
        dataset.SeriesInstanceUID = generate_uid()
        referenced = _item(SeriesInstanceUID=series_uid or slices[0].SeriesInstanceUID)
        study = _item(RTReferencedSeriesSequence=[referenced])
        dataset.ReferencedFrameOfReferenceSequence = [
            _item(FrameOfReferenceUID=frame_uid, RTReferencedStudySequence=[study])
        ]
        dataset.StructureSetROISequence = [
            _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame_uid)
            for number, name in enumerate(structures, 1)
        ]
        dataset.ROIContourSequence = [
            _item(ReferencedROINumber=number, ContourSequence=[_contour(points) for points in contours])
            for number, contours in enumerate(structures.values(), 1)
        ]
        dataset.RTROIObservationsSequence = [
            _item(ReferencedROINumber=number, RTROIInterpretedType=interpreted_type)
            for number in range(1, len(structures) + 1)
        ]
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


def _contour(points):
    data = [f"{value:.4f}" for value in np.asarray(points, float).ravel()]
    return _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points), ContourData=data)


def _item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch):
    """A function that runs a command's `main` with arguments, as its script does, and returns how it ended."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["fedgtv", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    return run


TINY_RECIPE = Recipe(
    preprocess=PreprocessConfig(spacing_mm=(4.0, 4.0, 4.0), roi=RoiConfig(crop_at_neck=False)),
    stage1=StageConfig(
        network=NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None, first_kernel=(1, 1, 1)),
        patch_size=(16, 24, 24),
    ),
    stage2=None,
    inference=InferenceConfig(threshold=0.5),
)


@pytest.fixture
def tiny_hu():
    """(z, y, x) HU: a body of 40 HU in air, with a bone of 400 HU along its axis."""
    return tiny_site.hu()


@pytest.fixture
def tiny_label():
    """(z, y, x): a target of 4 x 4 x 4 voxels of 64 mm3, which is 4.096 ml."""
    return tiny_site.label()


@pytest.fixture
def make_site():
    """A function that makes a site of imported cases, alike but for a voxel of air, and returns its site.yaml."""
    return tiny_site.make_site


@pytest.fixture
def write_model():
    """A function that writes a model file of a run whose network gives the same logit everywhere.

    `recipe` is the one that its metadata name, true or not; `bias` is the logit: positive calls all a target.
    """

    def write(path, recipe=TINY_RECIPE, bias=0.0):
        networks = build_model(TINY_RECIPE)
        head = networks["stage1"].head
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, bias)
        metadata = {"model": "tiny", "recipe": recipe.model_dump_json(), "normalisation": '{"mean": 0, "sd": 100}'}
        save_weights(path, model_weights(networks), metadata)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """A cascade of two networks with widths 2 and 4 on a 12 mm grid, without augmentation."""
    network = NetworkConfig(widths=(2, 4), strides=((2, 2, 2),), aspp=None)
    return Recipe(
        preprocess=PreprocessConfig(spacing_mm=(12.0, 12.0, 12.0), roi=RoiConfig(crop_at_neck=False)),
        stage1=StageConfig(network=network, patch_size=(8, 8, 8)),
        stage2=StageConfig(network=network.model_copy(update={"encoder_dropout": 0.3}), patch_size=(4, 8, 8)),
        training=TrainingConfig(
            batch_size=2, momentum=0.9, autocast="off", augmentation=AugmentationConfig(enabled=False)
        ),
    )


@pytest.fixture(scope="session")
def tiny_cases(tmp_path_factory) -> Path:
    """An imported cases folder: ten patients, each a cylinder of water with a bone and a block of brighter target."""
    folder = tmp_path_factory.mktemp("tiny") / "cases"
    noise = np.random.default_rng(0)
    _, y, x = np.mgrid[:16, :32, :32]
    entries = []
    for number in range(1, 11):
        hu = np.where((y - 16) ** 2 + (x - 16) ** 2 < 13**2, 40, -1000) + noise.integers(-20, 20, (16, 32, 32))
        label = np.zeros(hu.shape, np.uint8)
        label[6:10, 12 + number % 3 : 18, 12 : 18 + number % 3] = 1
        hu[label == 1] += 60
        hu[:, 24, 20:22] = 400
        name, geometry = f"T-{number:04d}", Geometry(hu.shape, (6.0, 6.0, 6.0))
        (folder / name).mkdir(parents=True)
        write_nifti(Volume(hu.astype(np.int16), geometry), folder / name / "ct.nii.gz")
        write_nifti(Volume(label, geometry), folder / name / "gtv.nii.gz")
        entries.append(CaseEntry(name, f"patient-{number}", (f"{name}/ct.nii.gz",), f"{name}/gtv.nii.gz"))
    write_index(folder, entries)
    return folder


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory) -> Path:
    """Where the preprocessed `tiny_cases` are kept for the whole session, for a site's `work/cache` to point at."""
    return tmp_path_factory.mktemp("tiny-cache")


@pytest.fixture(autouse=True)
def silent_product_log() -> Iterator[None]:
    """Takes away the handler that a ClientApp's or ServerApp's start leaves behind in this process."""
    yield
    logging.getLogger(LOGGER).handlers.clear()
