"""Files and folders for their owner alone: at creation, and where they were open before."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.private import close_to_others, private_files, private_folder, share, share_like


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_is_missing_is_made_private_and_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made = private_folder(tmp_path / "there" / "a" / "b")
    assert [mode(path) for path in (made, made.parent, tmp_path / "there")] == [0o700, 0o700, 0o755]
    assert private_folder(made) == made
    assert private_folder(tmp_path / "there") == tmp_path / "there"
    assert mode(tmp_path / "there") == 0o755


def test_new_files_of_this_process_and_its_children_are_private(tmp_path: Path) -> None:
    with private_files():
        (tmp_path / "own").touch()
        subprocess.run([sys.executable, "-c", "open('childs', 'w')"], cwd=tmp_path, check=True)
    (tmp_path / "later").touch()
    assert [mode(tmp_path / name) for name in ("own", "childs", "later")] == [0o600, 0o600, 0o644]


def test_an_open_folder_is_closed_with_all_below_but_not_behind_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "cases" / "A-0001").mkdir(parents=True)
    (tmp_path / "cases" / "A-0001" / "tool").touch(0o755)
    elsewhere.touch()
    (tmp_path / "cases" / "link").symlink_to(elsewhere)
    (tmp_path / "cases" / "dangling").symlink_to(tmp_path / "nothing")
    assert close_to_others(tmp_path / "cases") == ()
    below = [tmp_path / "cases", tmp_path / "cases" / "A-0001", tmp_path / "cases" / "A-0001" / "tool", elsewhere]
    assert [mode(path) for path in below] == [0o700, 0o700, 0o700, 0o644]


def test_what_cannot_be_closed_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps no modes, and a file of another user."""
    (tmp_path / "image").touch()
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    assert close_to_others(tmp_path / "image") == (tmp_path / "image",)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chmod", refuse)
    assert close_to_others(tmp_path / "image") == (tmp_path / "image",)


def test_a_new_folder_whose_place_a_link_took_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "site.key").touch(0o600)
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o2770)
    (tmp_path / "work" / "made").symlink_to(tmp_path / "keys")
    share_like(tmp_path / "work" / "made", tmp_path / "work")
    assert [mode(tmp_path / "keys"), mode(tmp_path / "keys" / "site.key")] == [0o700, 0o600]


def test_a_folder_that_is_not_there_is_closed(tmp_path: Path) -> None:
    assert close_to_others(tmp_path / "none") == ()


def test_links_that_another_account_puts_there_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that is there, nor one that takes a folder's place between the look and the deed."""
    keys, work = tmp_path / "keys", tmp_path / "work"
    keys.mkdir()
    (keys / "site.key").touch(0o600)
    (work / "cache").mkdir(parents=True)
    (work / "cache" / "site.key").touch(0o600)
    (work / "link").symlink_to(keys / "site.key")
    (work / "name").hardlink_to(keys / "site.key")
    chown = os.chown

    def swap(*arguments: object) -> None:
        if not (work / "cache").is_symlink():
            (work / "cache").rename(tmp_path / "moved")
            (work / "cache").symlink_to(keys)
        chown(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", swap)
    share(work, os.getgid() + 1 if os.geteuid() == 0 else os.getgid(), 0o070)
    assert mode(keys / "site.key") == 0o600
    assert (keys / "site.key").stat().st_gid == os.getgid()
    assert mode(work) == 0o2770
