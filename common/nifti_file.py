"""NIfTI files as bytes: the voxels, whole or refused. ITK takes what is left of a truncated file and fills up the rest.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h (348 bytes; its offsets stand in `_header`).
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.errors import ImageError
from common.file_tree import DENIED

HEADER_BYTES = 348
FARTHEST_BYTE = 1 << 30  # at which the voxels may begin, behind any extensions
GZIP_MAGIC = b"\x1f\x8b"
DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
COSINE_TOLERANCE = 2e-3
FORMS_TOLERANCE_MM = 0.5
"""By which the corners of a volume may differ between its two forms, qform and sform."""


@dataclass(frozen=True)
class _Header:
    shape_zyx: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float


def read_voxels(path: Path) -> NDArray[Any]:
    """Returns the voxels (z, y, x) of a NIfTI-1 file, plain or gzipped, rescaled to float32 if it says so.

    Raises:
        ImageError: the file is cut short, damaged or of another format; not a single three-dimensional scalar image;
            has no place or two places in the patient; holds values that are not finite.
    """
    with _opened(path) as file:
        header = _header(path, file)
        array = _rescaled(_whole(path, file, header), header)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{path}: holds values that are not finite; expected numbers alone; write air as -1000")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_slices(path: Path) -> Iterator[NDArray[Any]]:
    """Gives the slices (y, x) of a NIfTI-1 file one by one, for whoever need not see them all; rescaled as above.

    Raises:
        ImageError: as `read_voxels`, as far as the file was read; values that are not finite are given as they are.
    """
    with _opened(path) as file:
        header = _header(path, file)
        file.read(header.offset - HEADER_BYTES)
        for _ in range(header.shape_zyx[0]):
            yield _rescaled(_next(path, file, header, header.shape_zyx[1:]), header)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Gives the uncompressed bytes of a file; what goes wrong in reading them becomes an ImageError."""
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield file  # type: ignore[misc]  # a binary file in all but name
            else:
                yield raw
    except PermissionError as error:
        raise ImageError(f"{path}: {DENIED}") from error
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise _cut_short(path) from error


def _cut_short(path: Path) -> ImageError:
    return ImageError(f"{path}: cut short or damaged; expected a whole NIfTI file; copy or export it again")


def _header(path: Path, file: BinaryIO) -> _Header:
    data = file.read(HEADER_BYTES)
    order = next((order for order in "<>" if data[:4] == struct.pack(f"{order}i", HEADER_BYTES)), "")
    if len(data) < HEADER_BYTES or not order or data[344:347] != b"n+1":
        raise ImageError(f"{path}: not readable as NIfTI; expected one file of format NIfTI-1; export it again")
    dims = struct.unpack_from(f"{order}8h", data, 40)
    (code,) = struct.unpack_from(f"{order}h", data, 70)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", data, 108)
    shape = tuple(dims[1 : 1 + dims[0]]) if 0 < dims[0] < 8 else ()
    if len(shape) < 3 or min(shape) < 1 or max((1, *shape[3:])) > 1 or code not in DTYPES:
        raise ImageError(
            f"{path}: has dimensions {' x '.join(map(str, shape)) or 'none'} and data type {code}; expected one "
            "three-dimensional image of numbers; export a single volume"
        )
    with np.errstate(all="ignore"):  # what is not finite fails the checks
        forms = tuple(_forms(data, order))
        _check_forms(path, shape, forms, np.array(struct.unpack_from(f"{order}3f", data, 80)))
    dtype = np.dtype(order + DTYPES[code])
    if not 0 <= offset < FARTHEST_BYTE:
        raise _cut_short(path)
    return _Header(shape[2::-1], dtype, max(int(offset), HEADER_BYTES), slope, intercept)


def _forms(data: bytes, order: str) -> Iterator[NDArray[np.float64]]:
    """Gives the affines that are set: of the quaternion, of the matrix."""
    pixdim = struct.unpack_from(f"{order}8f", data, 76)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", data, 252)
    if qform_code > 0:
        b, c, d, *shift = struct.unpack_from(f"{order}6f", data, 256)
        a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        scale = np.array(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]
        yield np.column_stack([rotation * scale, shift])
    if sform_code > 0:
        yield np.array(struct.unpack_from(f"{order}12f", data, 280)).reshape(3, 4)


def _check_forms(
    path: Path, shape_xyz: tuple[int, ...], forms: tuple[NDArray[np.float64], ...], spacing_mm: NDArray[np.float64]
) -> None:
    if not forms:
        raise ImageError(
            f"{path}: has neither qform nor sform, so left and right are unknown; expected one; export it again with "
            "its orientation"
        )
    corners = np.array([[x, y, z, 1] for x in (0, shape_xyz[0]) for y in (0, shape_xyz[1]) for z in (0, shape_xyz[2])])
    apart_mm = float(np.abs(corners @ (forms[0] - forms[-1]).T).max())
    if not apart_mm <= FORMS_TOLERANCE_MM:
        raise ImageError(
            f"{path}: its qform and sform are {apart_mm:.1f} mm apart; expected one place in the patient; write it "
            "with one of them, the right one"
        )
    axes = forms[-1][:, :3] / spacing_mm
    if not np.abs(axes.T @ axes - np.eye(3)).max() < COSINE_TOLERANCE:
        raise ImageError(
            f"{path}: its axes are not perpendicular, or scaled otherwise than its spacing says; expected a grid of "
            "boxes; resample it"
        )


def _whole(path: Path, file: BinaryIO, header: _Header) -> NDArray[Any]:
    """Returns the voxels; reads on to the file's end, where gzip keeps its check sum."""
    file.read(header.offset - HEADER_BYTES)
    array = _next(path, file, header, header.shape_zyx)
    while file.read(1 << 20):
        pass
    return array


def _next(path: Path, file: BinaryIO, header: _Header, shape: tuple[int, ...]) -> NDArray[Any]:
    """Returns the voxels that come next in the file, as they are stored."""
    array = np.empty(shape, header.dtype)
    wanted = memoryview(array.reshape(-1).view(np.uint8).data)
    while wanted:
        num_read = file.readinto(wanted)  # type: ignore[attr-defined]
        if not num_read:
            raise _cut_short(path)
        wanted = wanted[num_read:]
    return array


def _rescaled(array: NDArray[Any], header: _Header) -> NDArray[Any]:
    if (header.slope, header.intercept) in ((1.0, 0.0), (0.0, 0.0)) or not header.slope:
        return array
    with np.errstate(all="ignore"):
        return np.asarray(array * header.slope + header.intercept, np.float32)
