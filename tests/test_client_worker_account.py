"""What is shared with the account that trains, and what is not."""

import os
import stat
from pathlib import Path

import pytest

from client.keys import make_key
from client.pseudonyms import FILE_NAME as PSEUDONYMS
from client.site import Site
from client.splits import keep_split
from client.worker_account import SECRET, SECRET_BYTES, check_apart, make_secret, share_with_worker
from common.cache import CaseCache
from common.dataset import read_index, write_index
from common.errors import ConfigError, SiteError
from common.private import close_to_others, private_folder
from common.recipe import PreprocessConfig, Recipe
from common.site_config import SiteConfig
from common.split import SplitConfig
from common.tasks import EvaluateTask

GROUP = os.getgid()
SITE = SiteConfig.model_validate({"site": "A", "worker": {"group": str(GROUP)}})


@pytest.fixture
def home(make_site, tmp_path: Path) -> Path:
    """A site of cases with pseudonyms, closed to others as an import leaves it."""
    home: Path = make_site(tmp_path / "site", num_cases=2).parent
    (home / "cases" / PSEUDONYMS).write_text("{}")
    close_to_others(home / "cases")
    return home


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *sorted(folder.rglob("*")))
    }


def test_cases_are_shared_to_read_and_pseudonyms_are_not(home: Path) -> None:
    share_with_worker(SITE, home)
    found = modes(home / "cases")
    assert found.pop(f"cases/{PSEUDONYMS}") == 0o600
    assert found.pop("cases/cases.json") == 0o640
    assert {mode for path, mode in found.items() if path.endswith(".nii.gz")} == {0o640}
    assert {mode for path, mode in found.items() if not path.endswith(".nii.gz")} == {0o2750}
    assert modes(home / "work") == {"work": 0o2770}
    assert {path.stat().st_gid for path in home.rglob("*")} == {GROUP}


def test_what_is_made_later_is_shared_as_its_folder_is(home: Path) -> None:
    share_with_worker(SITE, home)
    entries = read_index(home / "cases")
    write_index(home / "cases", entries)
    assert modes(home / "cases")["cases/cases.json"] == 0o640
    CaseCache(home / "work" / "cache", PreprocessConfig()).open(home / "cases", entries[0])
    found = modes(home / "work")
    assert len(found) > 5
    assert {mode for path, mode in found.items() if (home / path).is_file()} == {0o660}
    assert {mode for path, mode in found.items() if (home / path).is_dir()} == {0o2770}


def test_closing_to_others_leaves_what_is_shared_and_gives_nothing(home: Path) -> None:
    share_with_worker(SITE, home)
    before = modes(home / "cases")
    (home / "cases" / PSEUDONYMS).chmod(0o604)
    (home / "cases" / "cases.json").chmod(0o664)
    assert close_to_others(home / "cases") == ()
    assert modes(home / "cases") == before


def test_without_a_worker_nothing_is_shared_or_made(home: Path) -> None:
    before = modes(home)
    share_with_worker(SiteConfig(site="A"), home)
    assert modes(home) == before


def test_a_group_that_is_not_there_is_named(home: Path) -> None:
    site = SiteConfig.model_validate({"site": "A", "worker": {"group": "no-such-group"}})
    with pytest.raises(ConfigError, match=r"worker\.group: 'no-such-group' is no group of this machine"):
        share_with_worker(site, home)


def test_a_folder_that_cannot_be_given_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "chown", refuse)
    site = SiteConfig.model_validate({"site": "A", "worker": {"group": str(GROUP + 1)}})
    with pytest.raises(ConfigError, match=r"worker\.group: .*work cannot be given to group"):
        share_with_worker(site, home)


def test_a_case_that_the_node_s_account_prepares_for_itself_is_not_in_the_worker_s_folder(
    home: Path, tiny_recipe: Recipe
) -> None:
    (home / "site.yaml").write_text(SITE.model_dump_json())
    share_with_worker(SITE, home)
    split = SplitConfig(test_fraction=0.5, validation_fraction=0.0)
    given = keep_split(read_index(home / "cases"), split, home / "work")
    before = modes(home / "work")
    fields = {"experiment": "local", "recipe": tiny_recipe, "split": split, "models": ("m",), "part": "test"}
    task = EvaluateTask.model_validate({**fields, "normalisation": {"mean": 0.0, "sd": 1.0}})
    cases = Site.open(home / "site.yaml").for_own_eyes().open_cases(task)
    assert modes(home / "work") == before
    assert [case.cached.case_id for case in cases.test] == [entry.case_id for entry in given.test]
    assert {path.stat().st_mode & 0o077 for path in (home / "state" / "own").rglob("*")} == {0}


def test_the_secret_is_made_once_and_read_by_the_group(home: Path) -> None:
    share_with_worker(SITE, home)
    path = make_secret(home / "work")
    secret = path.read_bytes()
    assert (path.name, len(secret), stat.S_IMODE(path.stat().st_mode)) == (SECRET, SECRET_BYTES, 0o640)
    assert make_secret(home / "work").read_bytes() == secret


@pytest.mark.parametrize(
    "reach", ["keys/site.key", f"cases/{PSEUDONYMS}", "state", "cases", ".", "site.yaml", "kit.json", "keys"]
)
def test_an_account_that_can_reach_what_the_node_keeps_does_not_train(
    home: Path, monkeypatch: pytest.MonkeyPatch, reach: str
) -> None:
    make_key("A", home / "keys")
    private_folder(home / "state")
    monkeypatch.setattr(os, "access", lambda path, _: path == home / reach)
    with pytest.raises(SiteError, match=f"{home / reach}: the account that trains can (read|enter|write) it"):
        check_apart(SITE, home / "site.yaml")
    monkeypatch.setattr(os, "access", lambda *_: False)
    check_apart(SITE, home / "site.yaml")


@pytest.mark.parametrize("where", ["cases", "state", "work"])
def test_a_folder_elsewhere_must_not_lie_where_the_worker_can_replace_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    site = SITE.model_copy(update={where: tmp_path / "store" / where})
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) == (tmp_path / "store", os.W_OK))
    with pytest.raises(SiteError, match="store: the account that trains can write it"):
        check_apart(site, home / "site.yaml")
