"""Cases taken out on purpose: nothing of them stays, and an import does not bring them back until it is asked to."""

import json
from dataclasses import replace

import numpy as np
import pytest

from client.cases import open_cases
from client.ingest import import_folder
from client.removal import CasePlaces, gone, readmit_cases, remove_cases
from common.cache import FINGERPRINT_DIGITS, forget_case
from common.dataset import read_index
from common.errors import InputError, WorkError
from common.site_config import IngestConfig, SiteConfig
from common.split import SplitConfig
from common.volume import Geometry, Volume, write_nifti

GRID = Geometry((16, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, 0.0))
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.0)


@pytest.fixture
def write_case(tmp_path, tiny_hu, tiny_label):
    def write(name, add=0, export="export"):
        folder = tmp_path / export / name
        folder.mkdir(parents=True, exist_ok=True)
        write_nifti(Volume((tiny_hu + add).astype(np.int16), GRID), folder / "ct.nii.gz")
        write_nifti(Volume(tiny_label, GRID), folder / "gtv.nii.gz")

    return write


@pytest.fixture
def run(tmp_path):
    return lambda export="export", **more: import_folder(
        tmp_path / export, tmp_path / "cases", IngestConfig(), "A", **more
    )


@pytest.fixture
def places(tmp_path, write_case, run):
    """Three cases, imported."""
    for number, name in enumerate(("p1", "p2", "p3")):
        write_case(name, number)
    assert run().imported == ("A-0001", "A-0002", "A-0003")
    return CasePlaces.of(SiteConfig(site="A"), tmp_path, tmp_path / "check.html")


def test_nothing_of_a_removed_case_stays_but_its_pseudonym(tmp_path, places, tiny_recipe):
    work, own = tmp_path / "work", tmp_path / "state" / "own"
    for folder in (work, own):
        open_cases(places.cases, folder, tiny_recipe, SPLIT)
    places.page.write_text("pictures")
    assert len([*work.rglob("A-0002-*"), *own.rglob("A-0002-*")]) == 2
    assert remove_cases(places, ["A-0002"]) == ()
    assert [entry.case_id for entry in read_index(places.cases)] == ["A-0001", "A-0003"]
    left = [path for folder in (places.cases, work, own) for path in folder.rglob("*") if "A-0002" in path.name]
    assert (left, places.page.exists()) == ([], False)
    assert len([*work.rglob("A-0001-*"), *work.rglob("A-0003-*")]) == 2
    known = json.loads((places.cases / "pseudonyms.json").read_text())["cases"]["p2"]
    assert (known["case_id"], known["removed"]) == ("A-0002", True)


def test_links_in_the_cache_lead_removal_nowhere(tmp_path):
    """The worker's account writes there; what a link leads to may be the node's, or anybody's."""
    elsewhere = tmp_path / "elsewhere" / f"A-0001-{'0' * FINGERPRINT_DIGITS}"
    elsewhere.mkdir(parents=True)
    cache = tmp_path / "cache"
    (cache / "recipe" / f"A-0001-{'1' * FINGERPRINT_DIGITS}").mkdir(parents=True)
    (cache / "recipe" / elsewhere.name).symlink_to(elsewhere)
    (cache / "other").symlink_to(elsewhere.parent)
    forget_case(cache, "A-0001")
    assert list((cache / "recipe").iterdir()) == []
    assert elsewhere.is_dir()
    with pytest.raises(OSError, match="expected a folder"):
        forget_case(cache / "other", "A-0001")
    forget_case(tmp_path / "none", "A-0001")


def test_an_import_leaves_a_removed_case_out_until_it_is_let_in_again(places, run, write_case):
    remove_cases(places, ["A-0002"])
    for change in (lambda: None, lambda: write_case("p2", 9)):
        change()
        report = run(list_all=True)
        assert (report.imported, report.skipped, report.removed) == ((), ("A-0001", "A-0003"), ("A-0002",))
        assert (report.refused, report.num_usable) == ((), 2)
        (line,) = [line for line in report.cases if line.action == "removed"]
        assert line.reason.endswith("to have it back: `fedgtv-site remove --undo A-0002`, then import again")
        assert line.found.chosen == "gtv.nii.gz"
    readmit_cases(places, ["A-0002"])
    assert run().imported == ("A-0002",)
    assert [entry.case_id for entry in read_index(places.cases)] == ["A-0001", "A-0002", "A-0003"]
    assert run().skipped == ("A-0001", "A-0002", "A-0003")


def test_the_pseudonym_of_a_removed_case_is_nobody_elses(places, run, write_case):
    remove_cases(places, ["A-0003"])
    write_case("p4", 7)
    assert run().imported == ("A-0004",)


def test_another_patient_under_a_removed_cases_name_is_told(places, run, write_case):
    """Two exports may call their patients alike: who comes from another place with other voxels was not removed."""
    remove_cases(places, ["A-0001"])
    write_case("p1", 50, export="other")
    report = run("other")
    assert (report.imported, report.removed) == ((), ())
    assert "differs from what was imported as A-0001" in report.refused[0][1]


def test_a_removal_that_was_stopped_is_finished_by_the_next_one(places, monkeypatch):
    def full(*_):
        raise PermissionError(13, "Permission denied", "there")

    with monkeypatch.context() as patched:
        patched.setattr("client.case_store.shutil.rmtree", full)
        with pytest.raises(WorkError, match=r"there: cannot be removed \(Permission denied\); let your account"):
            remove_cases(places, ["A-0002"])
    assert (places.cases / "A-0002" / "image.nii.gz").exists()
    remove_cases(places, ["A-0002"])
    assert not (places.cases / "A-0002").exists()


@pytest.mark.parametrize(
    ("case_ids", "words"),
    [
        (["A-0001", "A-0022"], "case 'A-0022': not known here; did you mean A-0002"),
        (["../A-0001"], "case '../A-0001': not known here; "),
        (["x"], "case 'x': not known here; the site's cases are listed in "),
    ],
)
def test_an_unknown_case_is_named_and_nothing_is_removed(places, case_ids, words):
    with pytest.raises(InputError) as caught:
        remove_cases(places, case_ids)
    assert str(caught.value).startswith(words)
    assert len(read_index(places.cases)) == 3


def test_only_removed_cases_are_let_in_again(places, tmp_path):
    remove_cases(places, ["A-0002"])
    with pytest.raises(InputError, match="case A-0001: is in use; expected one that was removed"):
        readmit_cases(places, ["A-0002", "A-0001"])
    with pytest.raises(InputError, match=r"case 'A-0009': not known here; did you mean A-0002\?"):
        readmit_cases(places, ["A-0009"])
    with pytest.raises(InputError, match="no cases here yet; import some first, or give --config"):
        remove_cases(replace(places, cases=tmp_path / "none"), ["A-0001"])
    assert not (tmp_path / "none").exists()


def test_cases_that_no_import_made_are_removed_and_told(tmp_path, make_site):
    make_site(tmp_path / "A")
    places = CasePlaces.of(SiteConfig(site="A"), tmp_path / "A", tmp_path / "A" / "check.html")
    assert remove_cases(places, ["A-0002"]) == ("A-0002",)
    assert [entry.case_id for entry in read_index(places.cases)] == ["A-0001", "A-0003"]


def test_who_is_gone_already_is_known_and_who_was_left_half_way_is_not(places):
    assert gone(places, ["A-0001", "A-0002"]) == ()
    remove_cases(places, ["A-0001", "A-0002"])
    assert gone(places, ["A-0001", "A-0003"]) == ("A-0001",)
    (places.cases / "A-0002").mkdir()
    assert gone(places, ["A-0001", "A-0002"]) == ("A-0001",)
