"""Odd RTSTRUCTs."""

import copy

import numpy as np
from corpus.entry import dicom
from corpus.phantom import GEOMETRY, add_structure, contour, contours_of, item, make_case
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from common.site_config import IngestConfig
from common.volume import index_to_patient


def contours(structures, number=0):
    return structures.ROIContourSequence[number].ContourSequence


def edit(function):
    """Changes the RTSTRUCT alone."""
    return lambda slices, structures: function(structures)


def named(name, charset=None):
    def change(_, structures):
        if charset:
            structures.SpecificCharacterSet = charset
        structures.StructureSetROISequence[0].ROIName = name

    return change


def written(form):
    """Writes every coordinate by a function of the number."""

    def change(_, structures):
        for each in contours(structures):
            set_data(each, "\\".join(form(float(value)) for value in each.ContourData))

    return change


def set_data(each, text):
    """Sets contour data that pydicom would not write; they go out as they are."""
    value = text.encode("ascii")
    value += b" " * (len(value) % 2)
    each[Tag("ContourData")] = RawDataElement(Tag("ContourData"), "DS", len(value), value, 0, False, True)


def one_point(text):
    def change(_, structures):
        each = contours(structures)[0]
        rest = [str(value) for value in each.ContourData[1:]]
        set_data(each, "\\".join([text, *rest]))

    return change


def moved_by(num_slices, num_named, wrong=0):
    """Every contour names its slice, `wrong` of them another one; then the slices move up."""

    def change(slices, structures):
        place = {float(each.ImagePositionPatient[2]): number for number, each in enumerate(slices)}
        for count, each in enumerate(contours(structures)[:num_named]):
            number = place[float(each.ContourData[2])] + (2 if count < wrong else 0)
            each.ContourImageSequence = [item(ReferencedSOPInstanceUID=slices[number].SOPInstanceUID)]
        for each in slices:
            x, y, z = map(float, each.ImagePositionPatient)
            each.ImagePositionPatient = [x, y, z + num_slices * GEOMETRY.spacing_mm[0]]

    return change


def frame_of_the_set(_, structures):
    structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = generate_uid()
    for each in structures.StructureSetROISequence:
        del each.ReferencedFrameOfReferenceUID


def more(*extra):
    """Adds contours."""
    return edit(lambda structures: contours(structures).extend(copy.deepcopy(extra)))


def moved(x=0.0, y=0.0, z=0.0, only=None):
    def change(_, structures):
        for each in contours(structures)[:only]:
            points = np.array(each.ContourData, float).reshape(-1, 3) + np.array([x, y, z])
            each.ContourData = [f"{value:.4f}" for value in points.ravel()]

    return change


def square(slice_index, low, high, kind="CLOSED_PLANAR"):
    """Along voxel borders, from row and column `low` up to, and without, `high`."""
    corners = np.array([[low, low], [low, high], [high, high], [high, low]]) - 0.5
    planar = np.column_stack([np.full(4, slice_index), corners])
    return contour(index_to_patient(GEOMETRY, planar), kind)


def redrawn(*drawn, **options):
    def change(_, structures):
        structures.ROIContourSequence[0].ContourSequence = drawn or contours_of(make_case(), **options)

    return change


def joined(case):
    """Two squares on slice 5 that overlap in part."""
    mask = np.zeros_like(case.mask)
    mask[5, 10:20, 10:20] = mask[5, 15:25, 15:25] = True
    return case.but(mask=mask)


def drawn_twice(case):
    """Two squares on slice 5, 0.6 pixels apart."""
    mask = np.zeros_like(case.mask)
    mask[5, 10:20, 10:20] = mask[5, 11:21, 11:21] = True
    return case.but(mask=mask)


def exclusive(case):
    mask = joined(case).mask
    mask[5, 15:20, 15:20] = False
    return case.but(mask=mask)


def every_second(structures):
    drawn = contours(structures)
    z = [float(each.ContourData[2]) for each in drawn]
    keep = [each for each, height in zip(drawn, z, strict=True) if round((height - 40) / 3) % 2]
    structures.ROIContourSequence[0].ContourSequence = keep


def odd_slices(case):
    mask = case.mask.copy()
    mask[::2] = False
    return case.but(mask=mask)


def filled(case):
    """The like of equal squares on slices 3, 5 and 7 between them."""
    mask = np.zeros_like(case.mask)
    mask[3:8, 10:20, 10:20] = True
    return case.but(mask=mask)


def finer(_, structures):
    """Contours on planes 1 mm apart: the two beside a slice are those of its neighbours."""
    drawn = list(contours(structures))
    for each in drawn:
        for shift in (-1.0, 1.0):
            other = copy.deepcopy(each)
            points = np.array(each.ContourData, float).reshape(-1, 3) + np.array([1.5, 0, shift])
            other.ContourData = [f"{value:.4f}" for value in points.ravel()]
            contours(structures).append(other)


def island_off(mm):
    """Moves every contour but the first of each slice along z."""

    def change(_, structures):
        seen = set()
        for each in contours(structures):
            points = np.array(each.ContourData, float).reshape(-1, 3)
            z = points[0, 2]
            points[:, 2] += mm if z in seen else 0
            seen.add(z)
            each.ContourData = [f"{value:.4f}" for value in points.ravel()]

    return change


def one_square(case):
    mask = np.zeros_like(case.mask)
    mask[5, 10:20, 10:20] = True
    return case.but(mask=mask)


def tilted(_, structures):
    each = contours(structures)[0]
    points = np.array(each.ContourData, float).reshape(-1, 3)
    points[:, 2] += 0.3 * (points[:, 0] - points[0, 0])
    each.ContourData = [f"{value:.4f}" for value in points.ravel()]


def second(name, empty=False, **changes):
    def change(_, structures):
        add_structure(structures, name, [] if empty else contours_of(make_case()))
        for keyword, value in changes.items():
            setattr(structures.StructureSetROISequence[1], keyword, value)

    return change


def split_items(_, structures):
    """The contours of one structure in two items."""
    drawn = list(contours(structures))
    structures.ROIContourSequence[0].ContourSequence = drawn[:4]
    structures.ROIContourSequence.append(item(ReferencedROINumber=1, ContourSequence=drawn[4:]))


def without_item(_, structures):
    add_structure(structures, "Cord", contours_of(make_case()))
    del structures.ROIContourSequence[0]


def contour_of_nobody(_, structures):
    structures.ROIContourSequence.append(item(ReferencedROINumber=99, ContourSequence=contours_of(make_case())))


def other_patient(_, structures):
    structures.PatientID = "P2"
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    frame.FrameOfReferenceUID = structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = generate_uid()
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def other_frame(_, structures):
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    frame.FrameOfReferenceUID = structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = generate_uid()


def other_than_named(slices, structures):
    slices[0].FrameOfReferenceUID = ""
    other_frame(slices, structures)


def other_series(_, structures):
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def syntax(uid):
    return lambda _, structures: setattr(structures.file_meta, "TransferSyntaxUID", uid)


def cut(share):
    def after(folder):
        data = (folder / "rt.dcm").read_bytes()
        (folder / "rt.dcm").write_bytes(data[: int(share * len(data))])

    return after


def close(each):
    each.ContourData = [*each.ContourData, *each.ContourData[:3]]
    each.NumberOfContourPoints += 1


def odd_charset(folder):
    data = (folder / "rt.dcm").read_bytes()
    (folder / "rt.dcm").write_bytes(data.replace(b"ISO_IR 100", b"ISO_IR 999"))


def wrong_count(_, structures):
    contours(structures)[2].NumberOfContourPoints = 3


POINTS = square(5, 10, 20).ContourData
ENTRIES = [
    # Contour data
    dicom("coordinates with exponents", written(lambda value: f"{value:.8e}")),
    dicom("coordinates with a plus and spaces", written(lambda value: f" {value:+.4f} ")),
    dicom("coordinates with comma", written(lambda value: f"{value:.4f}".replace(".", ",")), refused="no list of x, y"),
    dicom("a coordinate NaN", one_point("NaN"), refused="no finite number"),
    dicom("a coordinate inf", one_point("inf"), refused="no finite number"),
    dicom("a coordinate missing", one_point(""), refused="no list of x, y, z"),
    dicom("a coordinate of 1e300", one_point("1e300"), refused="outside the image"),
    dicom("a coordinate that is text", one_point("abc"), refused="no list of x, y, z"),
    dicom("contour data not by threes", more(item(ContourGeometricType="CLOSED_PLANAR", ContourData=POINTS[:-1])),
          refused="no list of x, y, z"),
    dicom("number of points wrong", wrong_count, refused="says it has 3"),
    dicom("number of points missing", edit(lambda s: [c.__delattr__("NumberOfContourPoints") for c in contours(s)])),
    dicom("zero-point contours", more(item(ContourGeometricType="CLOSED_PLANAR", ContourData=None)),
          warned="1 contour bounding no area"),
    dicom("one- and two-point contours", more(contour(np.zeros((1, 3))), contour(np.zeros((2, 3)))),
          warned="2 contours bounding no area"),
    dicom("open contours and points", more(square(5, 2, 9, "OPEN_PLANAR"), contour(np.zeros((1, 3)), "POINT")),
          warned="2 contours bounding no area"),
    dicom("points alone", redrawn(contour(np.zeros((1, 3)), "POINT")), refused="without contours: 'GTVnx'"),
    dicom("no geometric type", redrawn(item(ContourData=POINTS)), refused="without contours: 'GTVnx'"),
    # Shapes
    dicom("keyholes", redrawn(keyholes=True)),
    dicom("exclusive contours", redrawn(kind="CLOSEDPLANAR_XOR")),
    dicom("exclusive contours that overlap", redrawn(square(5, 10, 20, "CLOSEDPLANAR_XOR"),
          square(5, 15, 25, "CLOSEDPLANAR_XOR")), case=exclusive),
    dicom("contours that overlap", redrawn(square(5, 10, 20), square(5, 15, 25)), case=joined, warned="were joined"),
    dicom("a contour drawn twice a little apart", redrawn(square(5, 10, 20), square(5, 10.6, 20.6)), case=drawn_twice,
          warned="nearly coincide on 1 slice"),
    dicom("contours given twice", edit(lambda s: contours(s).extend(copy.deepcopy(list(contours(s)))))),
    dicom("a contour closed by its first point again", edit(lambda s: [close(c) for c in contours(s)])),
    dicom("a contour crossing slices", tilted, refused="crosses"),
    dicom("a contour outside the image", moved(x=60.0), refused="outside the image along x"),
    dicom("a contour above the image", moved(z=30.0), refused="outside the image along z"),
    dicom("contours off the slice planes", moved(z=1.2)),
    dicom("contours on finer planes", finer, warned="18 contours on planes between slices"),
    dicom("islands and holes off the plane by 0.25 mm", island_off(0.25)),
    dicom("islands and holes off the plane by 0.5 mm", island_off(0.5)),
    dicom("an island off the plane by 1 mm", redrawn(square(5, 10, 20), square(5 + 1 / 3, 25, 30)), case=one_square,
          warned="1 contour on planes between slices"),
    dicom("contours on every second slice", edit(every_second), case=odd_slices, warned="2 of the slices"),
    dicom("every second slice, interpolated", redrawn(*(square(n, 10, 20) for n in (3, 5, 7))), case=filled,
          config=IngestConfig(interpolate_gaps=True), warned="2 slices without a contour were filled"),
    dicom("too small for a voxel", redrawn(contour([[0.1, 0, 55], [0.2, 0, 55], [0.2, 0.1, 55]])), refused="no voxel"),
    # Names and numbers
    dicom("two structures of one name", second("GTVnx"), refused="rename or delete one"),
    dicom("two targets", second("GTV-T"), refused="matches 2 structures: 'GTVnx', 'GTV-T'"),
    dicom("an empty structure of the same name", second("GTVnx", empty=True)),
    dicom("non-ASCII name", named("GTV Größe 鼻咽", "ISO_IR 192"), warned="by pattern 2 of ingest.structures"),
    dicom("Latin name", named("GTV Größe", "ISO_IR 100"), warned="by pattern 2 of ingest.structures"),
    dicom("name in an unknown character set", named("GTVnx", "ISO_IR 100"), after=odd_charset),
    dicom("name with pattern characters", named("GTV (1.5*2)+[a]$"), warned="by pattern 2 of ingest.structures"),
    dicom("name with spaces round it", named("  GTVnx ")),
    dicom("empty name", named(""), refused="found ''"),
    dicom("no name", edit(lambda s: s.StructureSetROISequence[0].__delattr__("ROIName")), refused="found ''"),
    dicom("a structure without contour item", without_item, refused="without contours: 'GTVnx'"),
    dicom("contours of an unknown number", contour_of_nobody),
    dicom("contours of one structure in two items", split_items),
    dicom("two structures of one number", second("Cord", ROINumber=1), refused="2 structures have the ROI number 1"),
    dicom("no structures", edit(lambda s: s.__delattr__("StructureSetROISequence")), refused="found none"),
    dicom("no observations", edit(lambda s: s.__delattr__("RTROIObservationsSequence"))),
    dicom("a structure without number", edit(lambda s: s.StructureSetROISequence[0].__delattr__("ROINumber")),
          refused="not readable as DICOM (AttributeError)"),
    # References
    dicom("RTSTRUCT of another patient", other_patient, refused="no RTSTRUCT refers to this CT series",
          beside="no CT in the export has"),
    dicom("patient ID of another patient", edit(lambda s: setattr(s, "PatientID", "P2")), refused="of another"),
    dicom("slices moved under contours that name them", moved_by(3, num_named=40),
          refused="draws 'GTVnx' 3.0 slices from the images that its contours name"),
    dicom("slices moved by one", moved_by(1, num_named=40), refused="1.0 slices from the images"),
    dicom("one contour that names another slice", moved_by(0, num_named=40, wrong=1)),
    dicom("other frame of reference, named by the set alone", frame_of_the_set, refused="frame of reference"),
    dicom("other frame of reference", other_frame, refused="frame of reference"),
    dicom("other frame of reference than all slices but the first", other_than_named, refused="frame of reference"),
    dicom("other series, same frame of reference", other_series, warned="paired with"),
    # Encoding
    dicom("RTSTRUCT in big endian", syntax(ExplicitVRBigEndian)),
    dicom("RTSTRUCT in implicit VR", syntax(ImplicitVRLittleEndian)),
    dicom("RTSTRUCT deflated", syntax(DeflatedExplicitVRLittleEndian)),
    dicom("RTSTRUCT truncated in the contours", after=cut(0.9), refused="cut short"),
    dicom("RTSTRUCT truncated before the contours", after=cut(0.12), refused="no RTSTRUCT refers", beside="cut short"),
]  # fmt: skip
