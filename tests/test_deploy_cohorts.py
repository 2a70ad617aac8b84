"""Sites on one machine: where their exports lie, which phantoms they get, and what is imported."""

import os
from concurrent.futures import Future

import numpy as np
import pytest

from common.dataset import read_index
from common.errors import ConfigError, ImageError, InputError
from common.experiment import Experiment
from common.settings import load_yaml
from common.site_config import SiteConfig
from common.volume import Geometry, Volume, write_nifti
from deploy.cohorts import exports_folder, prepare_site, write_exports

HU = np.arange(4 * 8 * 9, dtype=np.int16).reshape(4, 8, 9)
GRID = Geometry(HU.shape, (3.0, 1.0, 1.0))


def experiment(**simulation):
    return Experiment.model_validate(
        {"name": "e", "sites": ["X", "Y"], "steps": [{"kind": "statistics"}], "simulation": simulation}
    )


def write_case(folder, label_value=1):
    folder.mkdir(parents=True)
    write_nifti(Volume(HU, GRID), folder / "ct.nii.gz")
    write_nifti(Volume((HU > 200).astype(np.uint8) * label_value, GRID), folder / "gtv.nii.gz")


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Inline:
    """A pool that does its jobs at once, here."""

    def __init__(self, *_):
        pass

    def shutdown(self, cancel_futures):
        assert cancel_futures

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


def test_phantoms_of_the_sites_are_all_different_and_made_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("deploy.cohorts.ProcessPoolExecutor", Inline)
    monkeypatch.setattr("deploy.cohorts.make_phantom", lambda *arguments: arguments)

    def write(phantom, folder, case):
        folder.mkdir(parents=True)
        made.append((phantom, str(folder.relative_to(tmp_path)), case))

    monkeypatch.setattr("deploy.cohorts.write_phantom", write)
    config, told = experiment(cases={"X": 2, "Y": 1}, scale=0.5, contrast=3.0, seed=4), []
    write_exports(config, tmp_path, told.append)
    assert made == [
        (("A", 400_001, 0.5, 3.0), "X/case-001", 1),
        (("A", 400_002, 0.5, 3.0), "X/case-002", 2),
        (("B", 401_001, 0.5, 3.0), "Y/case-001", 1),
    ]
    assert told == [
        "making 3 phantoms as DICOM",
        "site X: 2 phantoms of institution A as DICOM",
        "site Y: 1 phantoms of institution B as DICOM",
    ]
    told.clear()
    write_exports(config, tmp_path, told.append)
    assert (len(made), [line.split()[0] for line in told]) == (3, ["site", "site"])


def test_a_site_without_phantoms_is_named(tmp_path):
    assert exports_folder(experiment(cases={"X": 1, "Y": 1}), tmp_path) == tmp_path / "exports"
    with pytest.raises(InputError, match="site 'Y' has no cases"):
        exports_folder(experiment(cases={"X": 1}), tmp_path)


def test_a_folder_may_begin_with_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGTV_DATA", str(tmp_path))
    config = experiment(source="folder", folder="$FEDGTV_DATA/openkbp")
    for site in ("X", "Y"):
        with pytest.raises(InputError, match=f"openkbp/{site} is no folder"):
            exports_folder(config, tmp_path)
        (tmp_path / "openkbp" / site).mkdir(parents=True)
    assert exports_folder(config, tmp_path) == tmp_path / "openkbp"
    monkeypatch.delenv("FEDGTV_DATA")
    with pytest.raises(InputError, match=r"\(set the variable that \$FEDGTV_DATA/openkbp begins with\)$"):
        exports_folder(config, tmp_path)


def test_a_site_is_prepared_with_what_can_be_imported(tmp_path):
    write_case(tmp_path / "export" / "p1")
    write_case(tmp_path / "export" / "p2", label_value=0)
    told = []
    config = experiment(source="folder", folder=str(tmp_path))
    path = prepare_site("X", config, tmp_path / "export", tmp_path / "site", told.append, num_threads=2)
    site = load_yaml(path, SiteConfig)
    assert (site.site, site.num_threads, site.policy.share_pictures, site.policy.min_cases) == ("X", 2, False, 3)
    assert [entry.case_id for entry in read_index(tmp_path / "site" / "cases")] == ["X-0001"]
    assert told[0] == "site X: 1 cases imported, 0 unchanged"
    assert told[1].startswith("site X: p2 refused: ")
    prepare_site("X", config, tmp_path / "export", tmp_path / "site", told.append)
    assert told[2] == "site X: 0 cases imported, 1 unchanged"


def test_phantoms_may_be_shown(tmp_path):
    write_case(tmp_path / "export" / "p1")
    path = prepare_site("X", experiment(), tmp_path / "export", tmp_path / "site", lambda _: None)
    policy = load_yaml(path, SiteConfig).policy
    assert (policy.share_pictures, policy.min_cases) == (True, 1)


def test_a_site_of_which_nothing_can_be_imported_leaves_nothing(tmp_path):
    write_case(tmp_path / "export" / "p1", label_value=0)
    with pytest.raises(InputError, match="site X: none of 1 cases could be imported; p1: ") as caught:
        prepare_site("X", experiment(), tmp_path / "export", tmp_path / "site", lambda _: None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="no CT among"):
        prepare_site("X", experiment(), _empty(tmp_path / "empty"), tmp_path / "site", lambda _: None)
    assert not os.path.exists(tmp_path / "site")
    assert tree(tmp_path) == ["empty", "export", "export/p1", "export/p1/ct.nii.gz", "export/p1/gtv.nii.gz"]


def _empty(folder):
    folder.mkdir()
    return folder


def test_phantoms_of_another_simulation_are_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.cohorts.ProcessPoolExecutor", Inline)
    monkeypatch.setattr("deploy.cohorts.make_phantom", lambda *arguments: arguments)
    monkeypatch.setattr("deploy.cohorts.write_phantom", lambda phantom, folder, case: folder.mkdir(parents=True))
    write_exports(experiment(cases={"X": 1, "Y": 1}, scale=0.5), tmp_path, lambda line: None)
    with pytest.raises(ConfigError, match="holds phantoms of another simulation"):
        write_exports(experiment(cases={"X": 1, "Y": 1}, scale=0.25), tmp_path, lambda line: None)
