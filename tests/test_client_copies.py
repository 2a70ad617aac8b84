"""Copies of slices: the same bytes count once, files of one identity that differ all stay."""

from pathlib import Path

import pytest
from pydicom import Dataset

from client.copies import told_copies, without_copies


@pytest.fixture
def written(tmp_path):
    """A function that writes files of {name: (SOP instance UID, bytes)} and returns paths and headers."""

    def write(**files):
        headers = {}
        for name, (uid, content) in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            headers[path] = Dataset()
            headers[path].SOPInstanceUID = uid
        return tuple(headers), headers

    return write


def names(paths):
    return [path.name for path in paths]


def test_the_first_of_each_copy_counts(written):
    found = without_copies(*written(a=("1.1", b"x"), b=("1.2", b"y"), c=("1.1", b"x"), d=("1.1", b"x")))
    assert (names(found.files), names(found.copies)) == (["a", "b"], ["c", "d"])


def test_files_of_one_identity_that_differ_all_stay(written):
    found = without_copies(*written(a=("1.1", b"x"), b=("1.1", b"y"), c=("1.1", b"y")))
    assert (names(found.files), names(found.copies)) == (["a", "b"], ["c"])


def test_the_same_bytes_under_two_identities_are_no_copy(written):
    found = without_copies(*written(a=("1.1", b"x"), b=("1.2", b"x")))
    assert (names(found.files), found.copies) == (["a", "b"], ())


def test_a_file_whose_identity_is_its_own_is_not_read():
    path = Path("not", "there")
    assert without_copies((path,), {path: Dataset()}).files == (path,)


def test_copies_are_told_by_their_folders():
    assert told_copies((), Path("e")) == ()
    (line,) = told_copies([Path("e/p/1"), Path("e/q/2"), Path("e/p/3")], Path("e"))
    assert line.startswith("3 files in p and q are copies of its slices, byte for byte, and they count once; ")
