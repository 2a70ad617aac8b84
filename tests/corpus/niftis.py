"""Odd NIfTI images and labels."""

import gzip
import os
import struct
from dataclasses import replace

import numpy as np
from corpus.entry import nifti
from corpus.phantom import GEOMETRY

from common.site_config import IngestConfig
from common.volume import Geometry, Volume

OBLIQUE = Geometry(GEOMETRY.size, (2.5, 0.75, 1.75), (3.0, 4.0, 5.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
FLIPPED = Geometry(GEOMETRY.size, GEOMETRY.spacing_mm, (9.0, 8.0, 7.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0))
Z_BEFORE_Y = (1.0, 0, 0, 0, 0, 1.0, 0, 1.0, 0)
DIMS, DATATYPE, SPACING, OFFSET, SLOPE, CODES, QUATERNION, SFORM = 40, 70, 80, 108, 112, 252, 256, 280
"""Offsets of header fields."""


def label(function):
    return lambda image, label: (image, function(label))


def image(function):
    return lambda image, label: (function(image), label)


def values(function):
    return lambda volume: Volume(function(volume.array), volume.geometry)


def shifted(mm):
    """The label's grid, moved along x."""
    x, y, z = GEOMETRY.origin_mm
    return label(lambda volume: Volume(volume.array, replace(GEOMETRY, origin_mm=(x + mm, y, z))))


def on(geometry):
    return lambda image, label: (Volume(image.array, geometry), Volume(label.array, geometry))


def standing(function=lambda array: array):
    """Stores slices as the last axis but one, (x, z, y) in NIfTI's order of axes; the label is changed before."""

    def change(image, label):
        size, spacing = np.array(GEOMETRY.size)[[1, 0, 2]], np.array(GEOMETRY.spacing_mm)[[1, 0, 2]]
        geometry = Geometry(tuple(map(int, size)), tuple(map(float, spacing)), GEOMETRY.origin_mm, Z_BEFORE_Y)
        changed = (image.array, function(label.array))
        return tuple(Volume(array.transpose(1, 0, 2).copy(), geometry) for array in changed)

    return change


def every_second(array):
    kept = array.copy()
    kept[4:7:2] = 0
    return kept


def every_second_of(case):
    return case.but(mask=every_second(case.mask))


def column(array):
    """The same square on slices 3 to 7."""
    drawn = np.zeros_like(array)
    drawn[3:8, 10:20, 10:20] = True
    return drawn


def set_header(offset, form, *content, names=("ct", "gtv")):
    """Writes header fields of files that exist."""

    def after(folder):
        for name in names:
            path = folder / f"{name}.nii.gz"
            data = bytearray(gzip.decompress(path.read_bytes()))
            struct.pack_into(form, data, offset, *content)
            path.write_bytes(gzip.compress(bytes(data), 1))

    return after


def packed(function, name="gtv"):
    """Changes a file's compressed bytes."""

    def after(folder):
        path = folder / f"{name}.nii.gz"
        path.write_bytes(function(bytearray(path.read_bytes())))

    return after


def corrupt(data):
    data[len(data) // 2] ^= 0xFF
    return data


def uncompressed(name):
    def after(folder):
        for stem in ("ct", "gtv"):
            (folder / f"{stem}{name}").write_bytes(gzip.decompress((folder / f"{stem}.nii.gz").read_bytes()))
        if name != ".nii.gz":
            for stem in ("ct", "gtv"):
                (folder / f"{stem}.nii.gz").unlink()

    return after


def big_endian(folder):
    """The label as a big-endian machine would have written it: header fields of two and four bytes, voxels of one."""
    path = folder / "gtv.nii.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    for form, offset in (("i", 0), ("i", 32), ("8h", 40), ("3f", 56), ("4h", 68), ("8f", 76), ("4f", 108),
                         ("4f", 124), ("2i", 140), ("2h", 252), ("18f", 256)):  # fmt: skip
        struct.pack_into(f">{form}", data, offset, *struct.unpack_from(f"<{form}", data, offset))
    path.write_bytes(gzip.compress(bytes(data), 1))


def with_nan(array):
    changed = array.astype(np.float32)
    changed[2, 3, 4] = np.nan
    return changed


def half(array):
    """Probabilities instead of a mask."""
    return array * np.linspace(0.1, 0.9, array.shape[2], dtype=np.float32)


def flipped_sform(folder):
    set_header(SFORM, "<4f", 1.5, 0.0, 0.0, -28.0)(folder)


ENTRIES = [
    nifti("NIfTI plain"),
    nifti("NIfTI uncompressed", after=uncompressed(".nii"),
          config=IngestConfig(image_name="ct.nii", label_name="gtv.nii")),
    nifti("NIfTI uncompressed under a gzip name", after=uncompressed(".nii.gz")),
    nifti("NIfTI oblique", on(OBLIQUE), case=lambda case: case.but(geometry=OBLIQUE)),
    nifti("NIfTI in flipped axes", on(FLIPPED), case=lambda case: case.but(geometry=FLIPPED)),
    nifti("NIfTI in big endian", after=big_endian),
    # Dimensions
    nifti("NIfTI 4-D", after=set_header(DIMS, "<8h", 4, 40, 48, 6, 2, 1, 1, 1), refused="40 x 48 x 6 x 2"),
    nifti("NIfTI 4-D with one volume", after=set_header(DIMS, "<8h", 4, 40, 48, 12, 1, 1, 1, 1)),
    nifti("NIfTI 2-D", after=set_header(DIMS, "<8h", 2, 40, 576, 1, 1, 1, 1, 1), refused="three-dimensional"),
    nifti("NIfTI with a negative size", after=set_header(DIMS, "<8h", 3, 40, -48, 12, 1, 1, 1, 1), refused="40 x -48"),
    nifti("NIfTI of a size that no memory holds", after=set_header(DIMS, "<4h", 3, 32767, 32767, 32767),
          refused="cut short or damaged"),
    nifti("NIfTI with voxels far away", after=set_header(OFFSET, "<f", 1e30), refused="cut short or damaged"),
    nifti("NIfTI in colour", after=set_header(DATATYPE, "<2h", 128, 24), refused="data type 128"),
    nifti("NIfTI label of another size", label(lambda v: Volume(v.array[:-1], replace(GEOMETRY, size=(11, 48, 40)))),
          refused="gtv.nii.gz has size (11, 48, 40)"),
    # Place
    nifti("NIfTI label off by 1e-4 mm", shifted(1e-4)),
    nifti("NIfTI label off by a voxel", shifted(1.5), refused="resample it"),
    nifti("NIfTI label flipped", label(lambda v: Volume(v.array, FLIPPED)), refused="resample it"),
    nifti("NIfTI sform and qform disagree", after=flipped_sform, refused="qform and sform are"),
    nifti("NIfTI sform alone", after=set_header(CODES, "<2h", 0, 1)),
    nifti("NIfTI qform alone", after=set_header(CODES, "<2h", 1, 0)),
    nifti("NIfTI without a form", after=set_header(CODES, "<2h", 0, 0), refused="left and right are unknown"),
    nifti("NIfTI sheared", after=lambda folder: (set_header(CODES, "<2h", 0, 1)(folder),
          set_header(SFORM, "<2f", -1.5, 0.5)(folder)), refused="not perpendicular"),
    nifti("NIfTI scaled a little otherwise than its spacing", after=lambda folder: (
          set_header(CODES, "<2h", 0, 1)(folder), set_header(SFORM, "<f", -1.501)(folder))),
    nifti("NIfTI with an infinite quaternion", after=set_header(QUATERNION, "<f", float("inf")), refused="nan mm"),
    nifti("NIfTI with an infinite slope", after=set_header(SLOPE, "<f", float("inf")), refused="not finite"),
    nifti("NIfTI with a spacing of zero", after=set_header(SPACING, "<f", 0.0), refused="qform and sform are"),
    nifti("NIfTI with NaN in its form", after=set_header(SFORM, "<f", float("nan")), refused="qform and sform are nan"),
    # Slices along another axis
    nifti("NIfTI stored as (x, z, y)", standing()),
    nifti("NIfTI stored as (x, z, y) with gaps", standing(every_second), case=every_second_of,
          warned="2 of the slices"),
    nifti("NIfTI stored as (x, z, y), interpolated", standing(lambda a: every_second(column(a))),
          case=lambda case: case.but(mask=column(case.mask)), config=IngestConfig(interpolate_gaps=True),
          warned="2 slices without a contour were filled"),
    # Label values
    nifti("NIfTI label of floats", label(values(lambda a: a.astype(np.float32)))),
    nifti("NIfTI label of 255", label(values(lambda a: a * 255))),
    nifti("NIfTI label of int8", label(values(lambda a: a.astype(np.int8)))),
    nifti("NIfTI label of probabilities", label(values(half)), refused="expected 0 and 1"),
    nifti("NIfTI label of several values", label(values(lambda a: a + (np.arange(40) > 12) * a)), refused="0, 1, 2"),
    nifti("NIfTI empty label", label(values(lambda a: a * 0)), refused="holds the values 0"),
    nifti("NIfTI all-one label", label(values(lambda a: a * 0 + 1)), refused="holds the values 1"),
    nifti("NIfTI label with NaN", label(values(with_nan)), refused="not finite"),
    # Image values
    nifti("NIfTI NaN in the image", image(values(with_nan)), refused="not finite"),
    nifti("NIfTI image of doubles", image(values(lambda a: a.astype(np.float64)))),
    nifti("NIfTI image rescaled", image(values(lambda a: (a + 100) // 2)), after=set_header(SLOPE, "<2f", 2.0, -100.0,
          names=("ct",)), case=lambda case: case.but(hu=(case.hu + 100) // 2 * 2 - 100)),
    nifti("NIfTI image in other units", image(values(lambda a: ((a + 1000) // 10).astype(np.uint8))),
          case=lambda case: case.but(hu=(case.hu + 1000) // 10), checked="are not HU"),
    nifti("NIfTI image of int8", image(values(lambda a: (a // 16).astype(np.int8))),
          case=lambda case: case.but(hu=case.hu // 16), checked="are not HU"),
    # Bytes
    nifti("NIfTI label with corrupt gzip", after=packed(corrupt), refused="cut short or damaged"),
    nifti("NIfTI label with truncated gzip", after=packed(lambda data: data[: len(data) // 2]), refused="cut short"),
    nifti("NIfTI label without its check sum", after=packed(lambda data: data[:-8]), refused="cut short"),
    nifti("NIfTI image truncated", after=packed(lambda data: gzip.compress(gzip.decompress(data)[:-9]), "ct"),
          refused="cut short"),
    nifti("NIfTI image of no bytes", after=packed(lambda data: b"", "ct"), refused="not readable as NIfTI"),
    nifti("NIfTI image that is text", after=packed(lambda data: b"no image", "ct"), refused="not readable as NIfTI"),
    nifti("NIfTI image missing", after=lambda folder: (folder / "ct.nii.gz").unlink(), refused="no such file"),
    nifti("NIfTI folder whose name is no UTF-8", refused="is not in UTF-8; rename it",
          after=lambda folder: folder.rename(folder.with_name(os.fsdecode("Müller".encode("latin-1"))))),
    nifti("NIfTI label missing", after=lambda folder: (folder / "gtv.nii.gz").unlink(), refused="no such file"),
]  # fmt: skip
