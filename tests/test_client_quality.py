"""Pre-flight check of a whole site: what is an error, what a warning, and what the site is told to do."""

import numpy as np
import pytest

from client.case_check import check_case
from client.quality import WORTH_PROCESSES, check_against, check_site
from client.site import Site
from client.splits import keep_split
from common.dataset import read_index, write_index
from common.errors import ConfigError
from common.experiment import Experiment
from common.recipe import Recipe
from common.split import SplitConfig
from common.volume import Volume, read_nifti, write_nifti


@pytest.fixture
def config(tmp_path, make_site):
    return make_site(tmp_path / "A")


@pytest.fixture(autouse=True)
def no_likeness(monkeypatch):
    """The fixture's cases differ in a voxel alone; their likeness has its own tests."""
    monkeypatch.setattr("client.cohort_check.SAME_SCAN", 1.1)


def findings_of(config, subject, **options):
    found = check_site(Site.open(config), SplitConfig(), **options)
    own = [f for f in found.about(subject) if f.check != "case" and (f.subject, f.check) != ("cases", "spacing")]
    return [(f.severity, f.what, f.remedy) for f in own]


def change(path, array):
    old = read_nifti(path)
    write_nifti(Volume(array(old.array), old.geometry), path)


def test_a_good_site_has_no_error(config):
    progress = []
    found = check_site(Site.open(config), SplitConfig(), progress=lambda *counts: progress.append(counts))
    assert found.count("error") == 0
    assert [(f.what, f.remedy) for f in found.about("cases")] == [("1 to train, 1 to validate, 1 to test", "")]
    told = found.about("A-0001")  # a box has no neck; voxels of 4 mm
    assert [(f.severity, f.check) for f in told] == [
        ("info", "case"),
        ("warning", "field-of-view"),
        ("warning", "spacing"),
    ]
    assert told[0].what == "target of 4.1 ml on 4 slices; image of 16 slices of 4 x 4 x 4 mm"
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [case.picture[:2] for case in found.cases] == [b"\xff\xd8"] * 3
    ranks = [["info", "ok", "warning", "error"].index(finding.severity) for finding in found.findings]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("name", "array", "severity", "words"),
    [
        ("image", lambda hu: hu + np.int16(1024), "error", "values 24 to 1424 are not HU"),
        ("image", lambda hu: np.minimum(hu, 100), "error", "values -1000 to 100 are not HU"),
        ("label", lambda label: label * np.uint8(0), "error", "the target is empty"),
    ],
)
def test_what_is_no_ct_or_no_target_is_told_by_case(config, name, array, severity, words):
    change(config.parent / "cases" / "A-0002" / f"{name}.nii.gz", array)
    told = findings_of(config, "A-0002")
    assert any((each[0], each[1]) == (severity, words) for each in told)
    assert "error" not in {each[0] for each in findings_of(config, "A-0003")}


def test_a_lost_file_is_an_error_of_its_case_alone(config):
    (config.parent / "cases" / "A-0001" / "image.nii.gz").unlink()
    ((severity, what, remedy),) = findings_of(config, "A-0001")
    assert (severity, remedy) == ("error", "import it again")
    assert what.endswith("A-0001/image.nii.gz: no such file; expected a NIfTI image (.nii.gz)")
    assert "error" not in {each[0] for each in findings_of(config, "A-0002")}


def test_a_copy_is_no_longer_well(config):
    folder = config.parent / "cases"
    (folder / "A-0003/image.nii.gz").write_bytes((folder / "A-0001/image.nii.gz").read_bytes())
    checks = {f.check: f.severity for f in check_site(Site.open(config), SplitConfig()).about("A-0003")}
    assert checks == {"case": "info", "duplicate": "error", "field-of-view": "warning", "spacing": "warning"}


def test_many_cases_are_checked_in_processes_as_in_one(tmp_path, make_site):
    site = Site.open(make_site(tmp_path / "many", num_cases=WORTH_PROCESSES))
    found = check_site(site, SplitConfig())
    alone = [check_case(site.cases_folder, entry, Recipe().preprocess, 1) for entry in read_index(site.cases_folder)]
    assert [case.findings for case in found.cases] == [case.findings for case in alone]
    assert [case.picture for case in found.cases] == [case.picture for case in alone]
    assert [case.facts.content for case in found.cases] == [case.facts.content for case in alone]


def test_too_few_cases_to_train_or_to_measure_are_a_warning(tmp_path, make_site):
    little = make_site(tmp_path / "little", policy={"min_cases": 3})
    ((severity, _, remedy),) = findings_of(little, "cases")
    assert (severity, remedy) == ("warning", "fewer than 3 training cases: statistics stay here (policy.min_cases)")
    more = make_site(tmp_path / "more", num_cases=6, policy={"min_cases": 3})
    ((severity, what, remedy),) = findings_of(more, "cases")
    assert (severity, what) == ("warning", "3 to train, 1 to validate, 2 to test")
    assert "metrics stay here" in remedy


def test_the_split_that_is_shown_is_the_one_that_was_kept(config):
    site = Site.open(config)
    assert findings_of(config, "cases") == [("ok", "1 to train, 1 to validate, 1 to test", "")]
    assert not site.work_folder.exists()
    split = keep_split(read_index(site.cases_folder), SplitConfig(), site.work_folder)
    write_index(site.cases_folder, (*split.validation, *split.test))
    assert findings_of(config, "cases") == [
        ("error", "0 to train, 1 to validate, 1 to test", "import cases with contours")
    ]


def test_a_damaged_split_is_an_error_and_the_cases_are_checked_all_the_same(config):
    site = Site.open(config)
    keep_split(read_index(site.cases_folder), SplitConfig(), site.work_folder)
    (path,) = (site.work_folder / "splits").glob("*.json")
    path.write_text("{")
    ((severity, what, _),) = findings_of(config, "cases")
    assert (severity, str(path) in what) == ("error", True)
    assert findings_of(config, "A-0001")


def test_what_to_check_against_comes_from_a_recipe_or_an_experiment(tmp_path):
    assert check_against(None) == (Recipe(), SplitConfig())
    path = tmp_path / "file.yaml"
    path.write_text("{stage2: null}")
    assert check_against(path) == (Recipe(stage2=None), SplitConfig())
    experiment = Experiment.model_validate(
        {
            "name": "e",
            "sites": ["A"],
            "split": {"seed": 3},
            "recipe": {"stage2": None},
            "steps": [{"kind": "statistics"}],
        }
    )
    path.write_text(experiment.model_dump_json())
    assert check_against(path) == (Recipe(stage2=None), SplitConfig(seed=3))
    path.write_text("{site: A, device: cpu}")
    with pytest.raises(
        ConfigError, match=r"neither a recipe nor an experiment, by its keys site, device; expected .*stage1"
    ):
        check_against(path)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        check_against(path)


def test_cases_that_are_left_out_are_not_counted(tmp_path, make_site):
    """Of six cases three train; two of those have no rescale and an empty label, and a task finds one."""
    config = make_site(tmp_path / "B", site="B", num_cases=6)
    site = Site.open(config)
    split = keep_split(read_index(site.cases_folder), SplitConfig(), tmp_path / "drawn")
    assert (len(split.train), len(split.validation), len(split.test)) == (3, 1, 2)
    change(site.cases_folder / split.train[0].images[0], lambda hu: hu + np.int16(1024))
    change(site.cases_folder / split.train[1].label, np.zeros_like)
    assert findings_of(config, "cases") == [("ok", "1 to train, 1 to validate, 2 to test; 2 left out for errors", "")]
    change(site.cases_folder / split.train[2].label, np.zeros_like)
    ((severity, what, remedy),) = findings_of(config, "cases")
    assert (severity, what) == ("error", "0 to train, 1 to validate, 2 to test; 3 left out for errors")
    assert remedy == "mend what the errors name, and import again"


def test_a_damaged_index_is_told_with_one_remedy(config):
    (config.parent / "cases" / "cases.json").write_text("{")
    ((severity, what, remedy),) = findings_of(config, "cases")
    assert (severity, remedy[:28]) == ("error", "restore it from a backup, or")
    assert "not JSON" in what
    assert ";" not in what
