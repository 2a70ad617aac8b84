"""Where results go: what cannot be written is told before the work, and nothing is made by asking."""

import errno

import pytest

from client.result_place import check_file, check_folder, writing
from common.errors import ConfigError, WorkError


def test_what_is_there_or_can_be_made_is_good(tmp_path, monkeypatch):
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "deep")
    check_file(tmp_path / "new" / "page.html")
    (tmp_path / "page.html").touch()
    check_file(tmp_path / "page.html")
    monkeypatch.chdir(tmp_path)
    check_folder(tmp_path.relative_to(tmp_path) / "beside")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_file_in_the_way_and_a_closed_folder_are_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(ConfigError, match=f"{folder}: file is a file; expected a folder"):
            check_folder(tmp_path / folder)
    with pytest.raises(ConfigError, match="is a folder; expected a file's name"):
        check_file(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=f"this account may not write to {tmp_path};"):
        check_file(tmp_path / "new" / "page.html")


def test_a_full_disk_is_failed_work(tmp_path):
    with (
        pytest.raises(WorkError, match=r"out: cannot be written \(No space left\); free space"),
        writing(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left")
