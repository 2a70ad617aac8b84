"""Volumes with their place in the patient, and their way to and from SimpleITK: the only file where axes are swapped.

Arrays and index triples are (z, y, x); points are (x, y, z) in mm in the patient's LPS frame (DICOM PS3.3 C.7.6.2.1.1:
+x to the patient's left, +y to the back, +z to the head). A voxel's index names its centre.
"""

import gzip
import shutil
import tempfile
import threading
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from numpy.typing import NDArray

from common.atomic import put_in_place
from common.errors import ImageError
from common.nifti_file import read_voxels
from common.text import clean_text

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings name no remedy and would land on the terminal

_ONE_THREAD = threading.Lock()
"""Held while ITK reads a header or writes a file: twice a process aborted in which several threads, the sites of a
simulation, were in it at once. Voxels are read without ITK."""
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
COMPRESSION_LEVEL = 1  # a 51 MB CT: 0.7 s and 20.2 MB; ITK's own level 1.3 s and 18.4 MB; zlib's level 6 2.7 s


@dataclass(frozen=True)
class Geometry:
    """A voxel grid in the patient."""

    size: tuple[int, int, int]
    """Voxels (z, y, x)."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres (z, y, x)."""
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of voxel (0, 0, 0), as (x, y, z) in LPS."""
    direction: tuple[float, ...] = IDENTITY
    """Nine cosines, row by row, as SimpleITK's: the columns are the directions of the x, y and z index axes."""

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def matches(self, other: "Geometry", tolerance_mm: float = 0.01) -> bool:
        """Whether both grids have the same voxels: equal sizes, and corners no more than `tolerance_mm` apart."""
        if self.size != other.size:
            return False
        corners = np.array([[z, y, x] for z in (0, self.size[0]) for y in (0, self.size[1]) for x in (0, self.size[2])])
        distances = index_to_patient(self, corners) - index_to_patient(other, corners)
        return bool(np.abs(distances).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """An array (z, y, x) on its grid."""

    array: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.size:
            raise ImageError(
                f"array has shape {self.array.shape}; expected {self.geometry.size} as in its geometry; "
                "pass the array on its own grid"
            )


def from_sitk(image: sitk.Image) -> Volume:
    """Returns a SimpleITK image as a volume; the array is a copy."""
    geometry = Geometry(
        size=_reversed(image.GetSize()),
        spacing_mm=_reversed(image.GetSpacing()),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )
    return Volume(sitk.GetArrayFromImage(image), geometry)


def to_sitk(volume: Volume) -> sitk.Image:
    """Returns a volume as a SimpleITK image (a copy); booleans become uint8."""
    array = volume.array.astype(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(volume.geometry.spacing_mm[::-1])
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def itk_name(path: Path) -> str:
    """Returns a file's name as ITK takes it; any other would end the process (ImageError)."""
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ImageError(
            f"{clean_text(name, None)}: its name, or a folder's above it, is not in UTF-8; rename it"
        ) from error
    return name


def read_nifti(path: Path) -> Volume:
    """Returns the scalar volume in a NIfTI file: the voxels as they are, the grid as ITK reads it.

    Raises:
        ImageError: the file is missing, or as `nifti_file.read_voxels` says.
    """
    if not Path(path).is_file():
        raise ImageError(f"{path}: no such file; expected a NIfTI image (.nii.gz)")
    name = itk_name(path)
    array = read_voxels(Path(path))
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(name)
    try:
        with _ONE_THREAD:
            reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ImageError(f"{path}: not readable as NIfTI ({reason}); export it again") from error
    direction = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    geometry = Geometry(
        size=_reversed(reader.GetSize()[:3]),
        spacing_mm=_reversed(reader.GetSpacing()[:3]),
        origin_mm=_triple(np.array(reader.GetOrigin()[:3])),
        direction=tuple(float(value) for value in (direction + 0.0).ravel()),
    )
    return Volume(array, geometry)


def write_nifti(volume: Volume, path: Path) -> None:
    """Writes a volume as NIfTI, whole or not at all, compressed if `path` ends in .gz; booleans become uint8."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        unfinished = Path(folder) / "volume.nii"
        with _ONE_THREAD:
            sitk.WriteImage(to_sitk(volume), str(unfinished))
        if path.suffix == ".gz":
            unfinished = _compressed(unfinished)
        put_in_place(unfinished, path)


def _compressed(path: Path) -> Path:
    """Returns the gzipped file beside a file, the same bytes at any time; ITK would heed no compression level."""
    compressed = path.with_name("volume.nii.gz")
    with (
        path.open("rb") as plain,
        compressed.open("wb") as file,
        gzip.GzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)
    return compressed


def to_lps(volume: Volume) -> Volume:
    """Returns the volume with z to the head, y to the back and x to the patient's left.

    Axes are permuted and flipped, never interpolated: an oblique grid keeps its obliquity and gets the nearest axes.
    """
    order, flips = _lps_axes(volume.geometry)
    array = np.ascontiguousarray(np.flip(volume.array.transpose(order), flips))
    return Volume(array, lps_geometry(volume.geometry))


def from_lps(array_zyx: NDArray[Any], original: Geometry) -> NDArray[Any]:
    """Returns an array that lies on the LPS grid of `original` on the original grid: the exact inverse of `to_lps`."""
    order, flips = _lps_axes(original)
    return np.ascontiguousarray(np.flip(array_zyx, flips).transpose(np.argsort(order)))


def lps_geometry(geometry: Geometry) -> Geometry:
    """Returns the grid that `to_lps` puts a volume of this geometry on."""
    order, flips = _lps_axes(geometry)
    corner = np.zeros(3)
    columns = np.array(geometry.direction).reshape(3, 3)[:, ::-1][:, list(order)]  # by (z, y, x) index axes
    for axis in flips:
        corner[order[axis]] = geometry.size[order[axis]] - 1
        columns[:, axis] *= -1
    z, y, x = order
    return Geometry(
        size=(geometry.size[z], geometry.size[y], geometry.size[x]),
        spacing_mm=(geometry.spacing_mm[z], geometry.spacing_mm[y], geometry.spacing_mm[x]),
        origin_mm=_triple(index_to_patient(geometry, corner[None])[0]),
        direction=tuple(float(value) for value in (columns[:, ::-1] + 0.0).ravel()),  # + 0.0: no negative zeros
    )


def index_to_patient(geometry: Geometry, indices_zyx: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the points (N, 3) as (x, y, z) in mm of fractional voxel indices (N, 3) given as (z, y, x)."""
    points: NDArray[np.float64] = np.asarray(indices_zyx, np.float64)[:, ::-1] @ _matrix(geometry).T
    points += geometry.origin_mm
    return points


def patient_to_index(geometry: Geometry, points_mm: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the fractional voxel indices (N, 3) as (z, y, x) of points (N, 3) given as (x, y, z) in mm."""
    offsets = np.asarray(points_mm, np.float64) - np.array(geometry.origin_mm)
    indices: NDArray[np.float64] = (offsets @ np.linalg.inv(_matrix(geometry)).T)[:, ::-1]
    return indices


def _matrix(geometry: Geometry) -> NDArray[np.float64]:
    """Columns: the steps in mm of the x, y and z index axes."""
    steps: NDArray[np.float64] = np.array(geometry.direction).reshape(3, 3)
    steps *= geometry.spacing_mm[::-1]
    return steps


def _lps_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Returns, per LPS axis (z, y, x), the index axis nearest to it, and the LPS axes that need a flip."""
    cosines = np.array(geometry.direction).reshape(3, 3)[::-1, ::-1]  # rows: patient z, y, x; columns: index z, y, x
    order = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[row, axes[row]]) for row in range(3)))
    flips = tuple(row for row in range(3) if cosines[row, order[row]] < 0)
    return (order[0], order[1], order[2]), flips


def _reversed(values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    return values[2], values[1], values[0]


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
