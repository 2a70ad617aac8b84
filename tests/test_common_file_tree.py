"""Files below a folder, and what the system keeps from us.

Root may read everything, and tests may run as root: then a child process takes the rights of nobody first, and only
where that cannot be done the test is skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ImageError
from common.file_tree import DENIED, lies_below, list_files

LISTED = """
import os, sys
from pathlib import Path
from common.file_tree import lies_below, list_files
if os.geteuid() == 0:  # after the imports: nobody may not even reach the interpreter's own files
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
tree = list_files(Path(sys.argv[1]))
print(*(path.name for path in tree.files), "|", *(f"{path.name}: {reason}" for path, reason in tree.closed))
"""


def as_a_plain_account(script, *arguments):
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def open_folder(tmp_path):
    """A folder that any account may enter; skips where nobody cannot reach it."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    ended = as_a_plain_account(LISTED, tmp_path)
    if ended.returncode:
        pytest.skip(f"no account without root's rights can read this folder: {ended.stderr.splitlines()[-1]}")
    return tmp_path


def test_folders_that_may_not_be_read_or_entered_are_named(open_folder):
    for name, mode in {"open": 0o755, "closed": 0o000, "listed only": 0o444}.items():
        (open_folder / name).mkdir()
        (open_folder / name / f"in {name}").touch()
        (open_folder / name).chmod(mode)
    ended = as_a_plain_account(LISTED, open_folder)
    for path in open_folder.iterdir():
        path.chmod(0o755)
    assert ended.stdout == f"in open | closed: {DENIED} listed only: {DENIED}\n"


def test_a_whole_folder_that_may_not_be_read_is_an_error(open_folder):
    (open_folder / "closed").mkdir(mode=0o000)
    ended = as_a_plain_account(LISTED, open_folder / "closed")
    (open_folder / "closed").chmod(0o755)
    assert ended.stderr.endswith(f"ImageError: {open_folder / 'closed'}: {DENIED}\n")


def test_links_to_files_count_and_links_to_folders_do_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a" / "file")
    (tmp_path / "d").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "e")
    tree = list_files(tmp_path)
    assert tree.files == (tmp_path / "a" / "file", tmp_path / "c")
    assert tree.closed == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "is a file; expected a folder of DICOM or NIfTI files; give the folder it lies in"),
        ("missing", "no such folder; expected a folder of DICOM or NIfTI files; correct it"),
        ("file/below", "cannot be read (Not a directory); expected a folder; see to its disk, then do it again"),
    ],
)
def test_what_is_no_folder_is_said(tmp_path, name, words):
    (tmp_path / "file").touch()
    with pytest.raises(ImageError) as caught:
        list_files(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {words}"


def test_a_link_that_leads_out_lies_below_nothing(tmp_path):
    inside, outside = tmp_path / "export" / "p" / "a", tmp_path / "b"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        path.touch()
    (tmp_path / "export" / "in").symlink_to(inside)
    (tmp_path / "export" / "out").symlink_to(outside)
    (tmp_path / "link").symlink_to(tmp_path / "export")
    for folder in (tmp_path / "export", tmp_path / "link"):
        assert lies_below(inside, folder)
        assert lies_below(folder / "in", folder)
        assert not lies_below(folder / "out", folder)
        assert not lies_below(folder / ".." / "b", folder)
