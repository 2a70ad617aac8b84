"""Pre-flight checks: what is an error, what a warning, and what the site is told to do."""

from collections import namedtuple

import numpy as np
import pytest

from client.quality import check_site
from client.site import Site
from client.splits import keep_split
from common.config import SplitConfig
from common.dataset import read_index, write_index
from common.volume import Volume, read_nifti, write_nifti

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def config(tmp_path, make_site):
    return make_site(tmp_path / "A")


def findings_of(config, subject):
    return [
        (f.severity, f.what, f.remedy) for f in check_site(Site.open(config), SplitConfig()) if f.subject == subject
    ]


def change(path, array):
    old = read_nifti(path)
    write_nifti(Volume(array(old.array), old.geometry), path)


def test_a_good_site_has_no_error(config):
    findings = check_site(Site.open(config), SplitConfig())
    assert not [finding for finding in findings if finding.severity == "error"]
    assert findings_of(config, "cases") == [("ok", "1 to train, 1 to validate, 1 to test", "")]
    assert findings_of(config, "A-0001") == [("ok", "target of 4.1 ml", "")]


@pytest.mark.parametrize(
    ("name", "array", "severity", "words"),
    [
        ("image", lambda hu: hu + np.int16(1024), "error", "values 24 to 1424 are not HU"),
        ("image", lambda hu: np.minimum(hu, 100), "error", "values -1000 to 100 are not HU"),
        ("label", lambda label: label * np.uint8(0), "warning", "target of 0.00 ml"),
    ],
)
def test_what_is_no_ct_or_no_target_is_told_by_case(config, name, array, severity, words):
    change(config.parent / "cases" / "A-0002" / f"{name}.nii.gz", array)
    told = findings_of(config, "A-0002")
    assert any((each[0], each[1]) == (severity, words) for each in told)
    assert findings_of(config, "A-0003")[0][0] == "ok"


def test_a_lost_file_is_an_error_of_its_case_alone(config):
    (config.parent / "cases" / "A-0001" / "image.nii.gz").unlink()
    ((severity, what, remedy),) = findings_of(config, "A-0001")
    assert (severity, remedy) == ("error", "import it again")
    assert "no such file" in what
    assert findings_of(config, "A-0002")[0][0] == "ok"


def test_too_few_cases_to_train_is_an_error_too_few_to_measure_a_warning(tmp_path, make_site):
    little = make_site(tmp_path / "little", policy={"min_cases": 3})
    ((severity, _, remedy),) = findings_of(little, "cases")
    assert (severity, remedy) == ("warning", "fewer than 3 training cases: statistics stay here (policy.min_cases)")
    more = make_site(tmp_path / "more", num_cases=6, policy={"min_cases": 3})
    ((severity, what, remedy),) = findings_of(more, "cases")
    assert (severity, what) == ("warning", "3 to train, 1 to validate, 2 to test")
    assert "metrics stay here" in remedy


def test_a_device_that_is_not_here_is_an_error(config):
    config.write_text("{site: A, device: cuda:99}")
    ((severity, what, remedy),) = findings_of(config, "device")
    assert severity == "error"
    assert "'cuda:99' is not here" in what
    assert "site.yaml" in remedy


def test_a_disk_that_is_nearly_full_is_a_warning(config, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**40, 2**40 - 2**30, 2**30))
    assert findings_of(config, "disk") == [("warning", "1.0 GiB free", "keep 5 GiB for the cache")]


def test_the_split_that_is_shown_is_the_one_that_was_kept(config):
    site = Site.open(config)
    assert findings_of(config, "cases") == [("ok", "1 to train, 1 to validate, 1 to test", "")]
    assert not site.state_folder.exists()
    split = keep_split(read_index(site.cases_folder), SplitConfig(), site.state_folder)
    write_index(site.cases_folder, (*split.validation, *split.test))
    assert findings_of(config, "cases") == [
        ("error", "0 to train, 1 to validate, 1 to test", "import cases with contours")
    ]


def test_a_damaged_split_is_an_error_and_the_cases_are_checked_all_the_same(config):
    site = Site.open(config)
    keep_split(read_index(site.cases_folder), SplitConfig(), site.state_folder)
    (path,) = (site.state_folder / "splits").glob("*.json")
    path.write_text("{")
    ((severity, what, _),) = findings_of(config, "cases")
    assert (severity, str(path) in what) == ("error", True)
    assert findings_of(config, "A-0001") == [("ok", "target of 4.1 ml", "")]
