"""DICOM files at the border: whatever pydicom raises on a damaged one, or warns of, ends here."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from common.errors import FedgtvError, InputError
from common.file_tree import DENIED

UNDEFINED_LENGTH = 0xFFFFFFFF
HEADER_BYTES = 12  # of the pixel data: tag, VR and length; 4 fewer with an implicit VR
WITHOUT_PREAMBLE = (b"\x02\x00\x00\x00", b"\x08\x00")
"""How a file may begin that lacks preamble and prefix (DICOM PS3.10, 7.1): with its meta group, or with group 0008."""


class NoDicomError(Exception):
    """A file that does not claim to be DICOM."""


@contextmanager
def reading(path: Path, kind: type[InputError], expected: str) -> Iterator[None]:
    """Runs a block that reads a file's elements: pydicom's many exceptions become one of `kind`, its warnings nothing.

    pydicom decodes elements when they are first looked at, so the block must look at all that it needs. The message
    names the exception, not its text, which can hold a patient's name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (FedgtvError, NoDicomError):
            raise
        except PermissionError as error:
            raise kind(f"{path}: {DENIED}") from error
        except Exception as error:
            raise kind(
                f"{path}: not readable as DICOM ({_reason(error)}); expected {expected}; export it again"
            ) from error


def open_dicom(path: Path, tags: Sequence[str] | None = None, stop_before_pixels: bool = False) -> Dataset:
    """Returns the elements of a file, with or without preamble; call it within `reading`.

    Raises:
        NoDicomError: the file is something else.
        EOFError: the file ends within an element.
    """
    specific = ["SOPClassUID", *tags] if tags is not None else None
    try:
        dataset = dcmread(path, specific_tags=specific, stop_before_pixels=stop_before_pixels)
    except InvalidDicomError as error:
        with Path(path).open("rb") as file:
            if not file.read(4).startswith(WITHOUT_PREAMBLE):
                raise NoDicomError(str(path)) from error
        dataset = dcmread(path, specific_tags=specific, stop_before_pixels=stop_before_pixels, force=True)
        if "SOPClassUID" not in dataset:
            raise NoDicomError(str(path)) from error
    _check_complete(dataset)
    return dataset


def bytes_after_header(path: Path) -> int:
    """Returns the number of bytes that a DICOM file's pixels may take: all from the pixel data's value on."""
    with Path(path).open("rb") as file:
        header = dcmread(file, specific_tags=[], stop_before_pixels=True, force=True)  # stops at the pixel data's tag
        length = HEADER_BYTES - 4 * header.original_encoding[0]
        return max(0, int(os.fstat(file.fileno()).st_size - file.tell() - length))


def _check_complete(dataset: Dataset) -> None:
    """Raises EOFError if an element's value is shorter than its length says: pydicom takes what there is."""
    for tag in dataset.keys():  # noqa: SIM118 (iterating a dataset decodes its elements)
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.length != UNDEFINED_LENGTH:
            value = element.value
            if isinstance(value, bytes) and len(value) < element.length:
                raise EOFError


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return "cut short" if isinstance(error, EOFError) else type(error).__name__
