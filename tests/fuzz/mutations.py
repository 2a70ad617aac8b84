"""Damage to files, drawn from a seeded generator: to bytes, and to the elements of a DICOM file."""

import copy
import io
import struct
import warnings

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence

VALUES = (
    b"", b" ", b"\\", b"\\\\\\", b"nan", b"inf", b"-1e400", b"1e300\\1e300\\1e300", b"0\\0\\0", b"1\\2", b"1,5\\2\\3",
    b"\xff\xfe", b"\0" * 8, b"-1", b"99999999999999999999", b"CLOSED_PLANAR", b"POINT", b"1.2.3", b"A" * 70000,
    "鼻咽".encode(), b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1.99", b"ISO_IR 192", b"ISO 2022 IR 87", b"*",
    b"\n; drop\r",
)  # fmt: skip
VRS = ("DS", "IS", "LO", "SQ", "UI", "UN", "OB", "OW", "US", "FD", "PN", "AT", "SH", "CS", "??")
LENGTHS = (0, 1, 3, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def mutated(rng, data):
    """Returns the bytes of a file, damaged in one to four places."""
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(0, 9))
        data = _elements(rng, data) if kind < 4 else BYTES[kind % len(BYTES)](rng, data)
    return data


def _place(rng, data):
    return int(rng.integers(0, max(1, len(data))))


def flip(rng, data):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[_place(rng, changed)] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def truncate(rng, data):
    return data[: _place(rng, data)]


def remove(rng, data):
    start = _place(rng, data)
    return data[:start] + data[start + int(rng.integers(1, 64)) :]


def insert(rng, data):
    start = _place(rng, data)
    return data[:start] + rng.bytes(int(rng.integers(1, 32))) + data[start:]


def repeat(rng, data):
    start = _place(rng, data)
    return data[:start] + data[start : start + int(rng.integers(1, 400))] + data[start:]


def length(rng, data):
    """Writes a length that is too large, too small or undefined over four bytes."""
    start = _place(rng, data)
    return data[:start] + struct.pack("<I", LENGTHS[int(rng.integers(0, len(LENGTHS)))]) + data[start + 4 :]


BYTES = (flip, truncate, remove, insert, repeat, length)


def _elements(rng, data):
    """Returns the file with one element deleted, replaced, retyped or repeated; as it was if pydicom cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(io.BytesIO(data))
            owner, tag = _element(rng, dataset)
            _change(rng, owner, tag)
            written = io.BytesIO()
            dataset.save_as(written)
            return written.getvalue()
        except Exception:  # a file that is too damaged to be changed by element
            return flip(rng, data)


def _element(rng, dataset):
    """Returns a dataset of the file, at any depth, and one of its tags."""
    owners = [dataset]
    for owner in owners:
        for element in owner:
            if element.VR == "SQ":
                owners += element.value
    owners = [owner for owner in owners if len(owner)]
    owner = owners[int(rng.integers(0, len(owners)))]
    return owner, list(owner.keys())[int(rng.integers(0, len(owner)))]


def _change(rng, owner, tag):
    kind = int(rng.integers(0, 4))
    if kind == 0:
        del owner[tag]
    elif kind == 1:
        value = VALUES[int(rng.integers(0, len(VALUES)))]
        owner[tag] = RawDataElement(tag, owner[tag].VR, len(value), value, 0, False, True)
    elif kind == 2:
        vr, value = VRS[int(rng.integers(0, len(VRS)))], VALUES[int(rng.integers(0, len(VALUES)))]
        owner[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    elif owner[tag].VR == "SQ":
        items = list(owner[tag].value)
        owner[tag].value = Sequence([*items, *copy.deepcopy(items[:1]), Dataset()][int(rng.integers(0, 3)) :])
