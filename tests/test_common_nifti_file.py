import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ImageError
from common.nifti_file import DTYPES, read_slices, read_voxels

ARRAY = np.arange(2 * 3 * 4).reshape(2, 3, 4)


def write(path, array, spacing=(1.0, 1.0, 1.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_are_those_that_itk_wrote(tmp_path, dtype, ending):
    array = ARRAY.astype(dtype)
    read = read_voxels(write(tmp_path / f"a{ending}", array))
    assert read.dtype == array.dtype
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_truncation_is_refused(tmp_path, ending):
    data = write(tmp_path / f"a{ending}", ARRAY.astype(np.int16)).read_bytes()
    path = tmp_path / f"cut{ending}"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ImageError):
            read_voxels(path)


def test_a_flipped_bit_in_gzip_never_gives_other_voxels(tmp_path):
    data = write(tmp_path / "a.nii.gz", ARRAY.astype(np.int16)).read_bytes()
    path = tmp_path / "flipped.nii.gz"
    for place in range(10, len(data)):  # the first ten bytes are gzip's own header
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            np.testing.assert_array_equal(read_voxels(path), ARRAY)
        except ImageError:
            continue


@settings(deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-300, 300)] * 3), st.booleans())
def test_forms_that_itk_writes_for_any_direction_agree(tmp_path_factory, axis, origin, flipped):
    if np.linalg.norm(axis) < 0.01:
        axis = (0, 0, 1)
    turn = sitk.VersorTransform(axis, 1.0)
    matrix = np.array(turn.GetMatrix()).reshape(3, 3) @ np.diag([1, 1, -1 if flipped else 1])
    image = sitk.GetImageFromArray(ARRAY.astype(np.int16))
    image.SetDirection(matrix.ravel().tolist())
    image.SetOrigin(origin)
    image.SetSpacing((0.5, 2.0, 3.0))
    path = tmp_path_factory.mktemp("forms") / "a.nii"
    sitk.WriteImage(image, str(path))
    np.testing.assert_array_equal(read_voxels(path), ARRAY)


def test_rescaled_voxels_are_floats(tmp_path):
    path = write(tmp_path / "a.nii.gz", ARRAY.astype(np.int16))
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2f", data, 112, 0.5, -10.0)
    path.write_bytes(gzip.compress(bytes(data)))
    read = read_voxels(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, ARRAY * 0.5 - 10)
    np.testing.assert_array_equal(np.stack(list(read_slices(path))), ARRAY * 0.5 - 10)


def test_slices_are_read_no_further_than_asked_for(tmp_path):
    path = write(tmp_path / "a.nii", ARRAY.astype(np.int16))
    path.write_bytes(path.read_bytes()[:-2])
    slices = read_slices(path)
    np.testing.assert_array_equal(next(slices), ARRAY[0])
    with pytest.raises(ImageError, match="cut short"):
        next(slices)
