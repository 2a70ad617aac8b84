import warnings

import numpy as np
import pytest

from common.dicom_files import NoDicomError, bytes_after_header, open_dicom, reading
from common.errors import ImageError, LabelError


def open_one(path, **options):
    with reading(path, ImageError, "a CT slice"):
        return open_dicom(path, **options)


def test_every_truncation_of_a_file_is_refused_or_has_whole_elements_alone(tmp_path, write_ct):
    (written,) = write_ct(tmp_path, np.zeros((1, 4, 4)))
    data, path = (tmp_path / "ct-001.dcm").read_bytes(), tmp_path / "cut.dcm"
    for size in range(0, len(data), 3):
        path.write_bytes(data[:size])
        try:
            dataset = open_one(path)
        except (ImageError, NoDicomError):
            continue
        assert all(dataset[tag].value == written[tag].value for tag in dataset.keys())  # noqa: SIM118


def read_badly(path):
    with reading(path, LabelError, "it"):
        warnings.warn("Patient^Name", UserWarning, stacklevel=1)
        raise KeyError("Patient^Name\nof two lines")


def test_exceptions_become_one_line_and_warnings_nothing(tmp_path):
    with pytest.raises(LabelError, match=r"x.dcm: not readable as DICOM \(KeyError\); expected it; export it again"):
        read_badly(tmp_path / "x.dcm")


def test_our_own_errors_pass(tmp_path):
    with pytest.raises(LabelError, match="as it was"), reading(tmp_path, ImageError, "it"):
        raise LabelError("as it was")


def test_what_is_missing_or_something_else(tmp_path):
    with pytest.raises(ImageError, match=r"none.dcm: not readable as DICOM \(no such file\)"):
        open_one(tmp_path / "none.dcm")
    (tmp_path / "text").write_text("\b\0 begins like group 0008, and is text")
    with pytest.raises(NoDicomError):
        open_one(tmp_path / "text")


@pytest.mark.parametrize("lost", [0, 1, 4, 31])
def test_the_bytes_that_pixels_may_take(tmp_path, write_ct, lost):
    write_ct(tmp_path, np.zeros((1, 4, 4)))
    path = tmp_path / "ct-001.dcm"
    path.write_bytes(path.read_bytes()[: path.stat().st_size - lost])
    assert bytes_after_header(path) == 32 - lost
