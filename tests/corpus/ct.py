"""Odd CT slices."""

import io
from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from corpus.entry import UNREAD, Entry, dicom, save
from corpus.phantom import GEOMETRY, item, make_case, make_slices, make_structures, set_pixels
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from common.volume import Geometry

TURN = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
TILT = (0.8, 0.36, 0.48, -0.6, 0.48, 0.64, 0.0, -0.8, 0.6)
Z_MM = GEOMETRY.spacing_mm[0]


NANS = b"\\".join([b"nan"] * 6)


def every(**tags):
    """Sets tags of every slice; a value may be a function of its index."""

    def change(slices, _):
        for index, dataset in enumerate(slices):
            for keyword, value in tags.items():
                setattr(dataset, keyword, value(index) if callable(value) else value)

    return change


def one(index=6, **tags):
    def change(slices, _):
        for keyword, value in tags.items():
            setattr(slices[index], keyword, value)

    return change


def without(keyword, index=6):
    def change(slices, _):
        delattr(slices[index], keyword)

    return change


def raw(keyword, value, vr="DS"):
    """Sets what pydicom would not write."""

    def change(slices, _):
        for dataset in slices:
            dataset[keyword] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)

    return change


def sop_class(uid):
    def change(slices, _):
        for dataset in slices:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid

    return change


def syntax(uid, encode=None):
    """Writes every slice in a transfer syntax; `encode` gives the encapsulated frame of (rows, columns) uint16."""

    def change(slices, structures):
        for dataset in slices:
            pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
            dataset.file_meta.TransferSyntaxUID = uid
            if encode:
                dataset.PixelData = encapsulate([encode(pixels, dataset)])
                dataset["PixelData"].is_undefined_length = True
            elif uid == ExplicitVRBigEndian:
                dataset.PixelData = pixels.astype(">u2").tobytes()
        if not encode:
            structures.file_meta.TransferSyntaxUID = uid

    return change


def rle(slices, _):
    for dataset in slices:
        dataset.compress(RLELossless, generate_instance_uid=False)


def jpeg_2000(pixels, dataset):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    return buffer.getvalue()


def jpeg_lossless(folder):
    """Rewrites the slices through GDCM, which has the encoder."""
    for path in folder.glob("ct-*.dcm"):
        dataset = dcmread(path)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetCompressor("JPEG")
        writer.UseCompressionOn()
        writer.SetFileName(str(path.with_suffix(".jpeg")))
        writer.Execute(sitk.GetImageFromArray(np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, -1)))
        encoded = dcmread(path.with_suffix(".jpeg"))
        path.with_suffix(".jpeg").unlink()
        assert encoded.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = encoded.PixelData
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)


def pixels(dtype, slope=1, intercept=0, **tags):
    """Stores the HU in another way."""

    def change(slices, _):
        for dataset, plane in zip(slices, make_case().hu, strict=True):
            dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
            set_pixels(dataset, np.rint((plane - float(intercept)) / slope), dtype)
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

    return change


def eight_bits(slices, _):
    for dataset, plane in zip(slices, make_case().hu, strict=True):
        dataset.RescaleSlope, dataset.RescaleIntercept = 10, -1000
        set_pixels(dataset, (plane + 1000) // 10, np.uint8)


def coarsened(hu):
    """Every second slice in steps of 2 HU."""
    step = 1 + np.arange(len(hu))[:, None, None] % 2
    return (hu + 1000) // step * step - 1000


def sloped(slices, _):
    for index, (dataset, plane) in enumerate(zip(slices, make_case().hu, strict=True)):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index % 2, -1000
        set_pixels(dataset, (plane + 1000) // (1 + index % 2), "<u2")


def padded(slices, _):
    for dataset, plane in zip(slices, make_case().hu, strict=True):
        dataset.RescaleIntercept, dataset.PixelPaddingValue = 0, -2000
        set_pixels(dataset, np.where(np.arange(plane.shape[0])[:, None] < 3, -2000, plane), "<i2")


def with_air_of(hu):
    def case(original):
        changed = original.hu.copy()
        changed[:, :3] = hu
        return original.but(hu=changed)

    return case


def moved(index, x=0.0, y=0.0, z=0.0):
    def change(slices, _):
        position = np.array(slices[index].ImagePositionPatient, float) + np.array([x, y, z])
        slices[index].ImagePositionPatient = [f"{value:.8g}" for value in position]

    return change


def tilted(slices, _):
    """A gantry tilt: the table moves along z, the planes lean."""
    for dataset in slices:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, np.round(np.cos(0.3), 9), np.round(np.sin(0.3), 9)]


def jittered(slices, _):
    for index in range(len(slices)):
        moved(index, z=0.01 * (-1) ** index)(slices, _)


def truncated(num_bytes, name="ct-006.dcm"):
    def after(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:num_bytes])

    return after


def truncated_before(tag, name="ct-006.dcm"):
    """Between two elements, wherever random UIDs, which differ in length, put them."""

    def after(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: data.index(tag)])

    return after


def listed(slices, structures):
    """The structure set lists all images of the series, and every contour names the one that it is drawn on."""
    places = {
        float(each.ImagePositionPatient[2]): item(ReferencedSOPInstanceUID=each.SOPInstanceUID) for each in slices
    }
    study = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence = list(places.values())
    for contour in structures.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = [places[float(contour.ContourData[2])]]


def listed_but_lost(first):
    """The last slices, from `first` on, are forgotten in the export."""

    def change(slices, structures):
        listed(slices, structures)
        del slices[first:]

    return change


def listed_under_other_names(slices, structures):
    """As after anonymisation: no reference leads to an image of the export."""
    listed(slices, structures)
    for each in slices:
        each.SOPInstanceUID = generate_uid()
    del slices[8:]


def without_slices(first):
    """The case without the slices from `first` on."""
    grid = replace(GEOMETRY, size=(first, *GEOMETRY.size[1:]))
    return lambda case: case.but(hu=case.hu[:first], mask=case.mask[:first], geometry=grid)


def two_series_in_one(slices, _):
    more = make_slices(make_case(), FrameOfReferenceUID=slices[0].FrameOfReferenceUID)
    for dataset in more:
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
    slices += more


def a_series_of_other_resolution(slices, _):
    more = make_slices(make_case().but(geometry=Geometry(GEOMETRY.size, (3.0, 2.0, 2.0), (0.0, 0.0, 1000.0))))
    for dataset in more:
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
    slices += more


def two_patients_stacked(slices, _):
    """The upper half of the series is another patient's; places go on as if it were one."""
    for dataset in slices[6:]:
        dataset.PatientID = "P2"


def scrambled(folder):
    """File names and instance numbers that say nothing of the order."""
    paths = sorted(folder.glob("ct-*.dcm"))
    order = np.random.default_rng(3).permutation(len(paths))
    for path, place in zip(paths, order, strict=True):
        path.rename(folder / f"x{place:02d}")


def turned(geometry, **tags):
    """An entry's maker for the phantom in another place."""

    def make(folder):
        case = make_case().but(geometry=geometry)
        slices = make_slices(case, **tags)
        save(folder / "p1", slices, make_structures(case, slices))
        return case

    return make


def rounded(folder):
    """A scan tilted by 37 degrees, whose contours' coordinates have one decimal."""
    case = make_case().but(geometry=Geometry(GEOMETRY.size, (0.9, 0.75, 1.75), (3.3, 4.1, 5.2), TILT))
    slices = make_slices(case)
    structures = make_structures(case, slices)
    for each in structures.ROIContourSequence[0].ContourSequence:
        each.ContourData = [f"{float(value):.1f}" for value in each.ContourData]
    save(folder / "p1", slices, structures)
    return case


def lying(position, direction):
    geometry = Geometry(GEOMETRY.size, GEOMETRY.spacing_mm, (12.5, -40.25, 300.0), direction)
    return Entry(f"patient position {position}", turned(geometry, PatientPosition=position))


ENTRIES = [
    dicom("plain"),
    # Pixels
    dicom("big endian", syntax(ExplicitVRBigEndian)),
    dicom("implicit VR", syntax(ImplicitVRLittleEndian)),
    dicom("deflated", syntax(DeflatedExplicitVRLittleEndian)),
    dicom("RLE", rle),
    dicom("JPEG lossless", after=jpeg_lossless),
    dicom("JPEG 2000", syntax(JPEG2000Lossless, jpeg_2000)),
    dicom("signed pixels", pixels("<i2")),
    dicom("signed pixels of 12 bits", pixels("<i2", BitsStored=12, HighBit=11)),
    dicom("unsigned pixels with an offset", pixels("<u2", intercept=-8192)),
    dicom("eight bits", eight_bits, case=lambda case: case.but(hu=(case.hu + 1000) // 10 * 10 - 1000)),
    dicom("padding below air", padded, case=with_air_of(-1024)),
    dicom(
        "fractional slope",
        pixels("<i2", slope=0.5, intercept=-1024),
        case=lambda case: case.but(hu=case.hu.astype(np.float32)),
    ),
    dicom("negative slope", pixels("<i2", slope=-1, intercept=100)),
    dicom("a slope for every slice", sloped, case=lambda case: case.but(hu=coarsened(case.hu))),
    dicom("missing rescale slope", without("RescaleSlope"), refused="no RescaleSlope"),
    dicom("missing rescale intercept", without("RescaleIntercept"), refused="no RescaleIntercept"),
    dicom("two rescale intercepts", every(RescaleIntercept=[-1024, 0]), refused="not readable as DICOM"),
    dicom("rescale intercept of text", raw("RescaleIntercept", b"CLOSED"), refused="not readable as DICOM"),
    dicom("rescale intercept of tags", raw("RescaleIntercept", bytes(8), "AT"), refused="not readable as DICOM"),
    dicom("series UID that is a sequence", raw("SeriesInstanceUID", b"", "SQ"), refused="no CT among 13 files"),
    dicom("image type of bytes", raw("ImageType", b"ORIGINAL", "OB"), refused="no CT among 13 files"),
    dicom("slope of zero", every(RescaleSlope=0), refused="RescaleSlope is 0"),
    dicom("colour", every(SamplesPerPixel=3), refused="3 samples a pixel"),
    dicom("inverted grey", every(PhotometricInterpretation="MONOCHROME1"), refused="is 'MONOCHROME1'; expected"),
    dicom("no photometric interpretation", without("PhotometricInterpretation")),
    dicom("multi-frame", every(NumberOfFrames=12), refused="multi-frame"),
    dicom("enhanced CT", sop_class(EnhancedCTImageStorage), refused="multi-frame"),
    dicom("truncated in the pixels", after=truncated(-10), refused="cut short"),
    dicom("truncated in the header", after=truncated_before(b"\x28\x00\x10\x00"), refused="has no Rows"),
    dicom("truncated in the meta group", after=truncated(200), refused="6.00 mm to", beside="cut short"),
    dicom("no pixels", without("PixelData"), refused="0 bytes of pixels"),
    # Kinds of image
    dicom("MR instead of CT", sop_class(MRImageStorage), refused="no CT among 13 files"),
    dicom("PET instead of CT", sop_class(PositronEmissionTomographyImageStorage), refused="no CT among 13 files"),
    dicom("secondary captures", sop_class(SecondaryCaptureImageStorage), refused="no CT among 13 files"),
    dicom("localisers", every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), refused="no CT among 13 files"),
    # Place
    dicom("missing position", without("ImagePositionPatient"), refused="no ImagePositionPatient"),
    dicom("missing orientation", without("ImageOrientationPatient"), refused="no ImageOrientationPatient"),
    dicom("missing pixel spacing", without("PixelSpacing"), refused="no PixelSpacing"),
    dicom("pixel spacing of zero", every(PixelSpacing=[0, 0]), refused="PixelSpacing is"),
    dicom("position of two numbers", one(ImagePositionPatient=[1, 2]), refused="expected 3 finite numbers"),
    dicom("gantry tilt", tilted, refused="gantry tilt"),
    dicom("single slice", lambda slices, _: slices.__delitem__(slice(1, None)), refused="the only slice"),
    dicom("a slice missing", lambda slices, _: slices.pop(5), refused="6.00 mm to the next slice"),
    dicom("slice order shuffled", lambda slices, _: slices.sort(key=lambda s: str(s.SOPInstanceUID)[-4:])),
    dicom("names without meaning or ending", after=scrambled),
    dicom("decreasing z", lambda slices, _: slices.reverse()),
    dicom("spacing jitter of 0.01 mm", jittered),
    dicom("spacing jitter of 1 mm", moved(6, z=1.0), refused="4.00 mm to the next slice"),
    dicom("duplicate positions", moved(6, z=Z_MM), refused="at the same position"),
    dicom("a slice moved sideways", moved(6, x=4.0), refused="across the slices' normal"),
    dicom("mixed orientation", one(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), refused="ImageOrientationPatient is"),
    dicom("mixed pixel spacing", one(PixelSpacing=[1.25, 1.6]), refused="PixelSpacing is"),
    dicom("mixed rows", one(Rows=24), refused="Rows is 24"),
    dicom("cosines a little off one", every(ImageOrientationPatient=[1.0002, 0, 0, 0, 0.9998, 0])),
    dicom("cosines far off one", every(ImageOrientationPatient=[1.1, 0, 0, 0, 1.1, 0]), refused="perpendicular unit"),
    dicom("cosines of zero", every(ImageOrientationPatient=[0] * 6), refused="perpendicular unit"),
    dicom("cosines that are no numbers", raw("ImageOrientationPatient", NANS), refused="6 finite"),
    Entry("oblique with oblong pixels", turned(Geometry(GEOMETRY.size, (2.5, 0.75, 1.75), (3.0, 4.0, 5.0), TURN))),
    Entry("oblique with coordinates of one decimal", rounded),
    lying("HFS", (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)),
    lying("HFP", (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
    lying("FFS", (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)),
    lying("FFP", (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0)),
    lying("HFDL", (0, 1.0, 0, -1.0, 0, 0, 0, 0, 1.0)),
    lying("HFDR", (0, -1.0, 0, 1.0, 0, 0, 0, 0, 1.0)),
    lying("FFDL", (0, 1.0, 0, 1.0, 0, 0, 0, 0, -1.0)),
    lying("FFDR", (0, -1.0, 0, -1.0, 0, 0, 0, 0, -1.0)),
    # Identities
    dicom("duplicate SOP UIDs", lambda s, _: setattr(s[4], "SOPInstanceUID", s[7].SOPInstanceUID),
          refused="has the SOPInstanceUID of"),
    dicom("two series in one UID", two_series_in_one, refused="at the same position"),
    dicom("series of two resolutions in one UID", a_series_of_other_resolution, refused="PixelSpacing is"),
    dicom("a slice without series UID", without("SeriesInstanceUID"), refused="6.00 mm to the next slice",
          beside="without SeriesInstanceUID"),
    dicom("a slice of another series", one(SeriesInstanceUID=generate_uid()), refused="6.00 mm to the next slice",
          warned="left out"),
    dicom("an end slice truncated in the meta group", after=truncated(200, "ct-011.dcm"), beside="cut short",
          warned=UNREAD, case=without_slices(11)),
    dicom("an end slice truncated that is listed", listed, after=truncated(200, "ct-011.dcm"), beside="cut short",
          warned="lists 12 images of this CT, and 11 of them can be read", case=without_slices(11)),
    dicom("end slices lost that are listed", listed_but_lost(8), case=without_slices(8),
          warned="lists 12 images of this CT, and 8 of them can be read"),
    dicom("end slices of the target lost", listed_but_lost(7),
          refused="draws 'GTVnx' on 5 images, and the 7 of this CT that can be read hold 4 of them"),
    dicom("end slices lost that are listed under other names", listed_under_other_names, case=without_slices(8)),
    dicom("a damaged file beside a whole series", listed, beside="prefix.dcm", warned=UNREAD,
          after=lambda folder: (folder / "prefix.dcm").write_bytes(bytes(128) + b"DICM")),
    dicom("two patients stacked in one UID", two_patients_stacked, refused="PatientID is not that of"),
    dicom("a slice of another frame of reference", one(FrameOfReferenceUID=generate_uid()),
          refused="FrameOfReferenceUID is not that of"),
    dicom("a slice without frame of reference", one(FrameOfReferenceUID="")),
    dicom("no frame of reference", every(FrameOfReferenceUID="")),
    dicom("syntax other than told", lambda s, _: setattr(s[3].file_meta, "TransferSyntaxUID", ExplicitVRLittleEndian)),
]  # fmt: skip
