"""The demo's acts that need no running federation: import, check, keys and certificates, and what is cleared."""

import io

import numpy as np
import pytest
from rich.console import Console

from common.config import Experiment
from common.errors import InputError, WorkError
from common.volume import Geometry, Volume, write_nifti
from deploy.demo import DONE, _start_anew
from deploy.showcase import Showcase


@pytest.fixture
def showcase(tmp_path, tiny_hu, tiny_label):
    """A showcase over two sites whose cases are folders of tiny NIfTI files."""

    def make(num_cases=12, folder="demo"):
        grid = Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))
        for site in ("A", "B"):
            for number in range(num_cases):
                case = tmp_path / "data" / site / f"p{number}"
                case.mkdir(parents=True, exist_ok=True)
                write_nifti(Volume(tiny_hu, grid), case / "ct.nii.gz")
                write_nifti(Volume(tiny_label, grid), case / "gtv.nii.gz")
        experiment = Experiment.model_validate(
            {
                "name": "e",
                "sites": ["A", "B"],
                "steps": [{"kind": "statistics"}],
                "simulation": {"source": "folder", "folder": str(tmp_path / "data")},
            }
        )
        return Showcase(experiment, tmp_path / folder, Console(file=io.StringIO(), width=200))

    return make


def told(showcase):
    return showcase.console.file.getvalue()


def test_import_and_check_go_through_every_site(tmp_path, showcase):
    acts = showcase()
    acts._import()
    acts._check()
    assert acts.configs == {site: tmp_path / "demo" / "sites" / site / "site.yaml" for site in ("A", "B")}
    assert "site A: 12 cases imported, 0 unchanged" in told(acts)
    assert "site B: 15 checks, no error" in told(acts)  # 12 cases, device, disk, split


def test_a_site_that_cannot_train_ends_the_demo_by_name(showcase):
    acts = showcase(num_cases=3)
    acts._import()
    with pytest.raises(WorkError, match="site A: cases: 1 to train, 1 to validate, 1 to test; at least 3"):
        acts._check()


def test_an_interrupted_demo_keeps_keys_and_certificates(tmp_path, showcase):
    acts = showcase(num_cases=3)
    acts._import()
    first = acts._provision()
    files = [first.certificates.key, tmp_path / "demo" / "sites" / "A" / "keys" / "site.key"]
    before = [path.read_bytes() for path in files]
    again = showcase(num_cases=3)
    again._import()
    assert again._provision() == first
    assert [path.read_bytes() for path in files] == before
    assert first.config.address.startswith("localhost:")


def test_dsc_of_the_new_patient_by_hand(tmp_path, showcase):
    """3 voxels predicted, 2 true, 2 in common: 2 * 2 / 5."""
    truth, mask = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    truth[0, 0], mask[0, 0], mask[1, 1, 1] = 1, 1, 1
    for name, array in {"case/truth.nii.gz": truth, "result/mask.nii.gz": mask}.items():
        (tmp_path / name).parent.mkdir()
        write_nifti(Volume(array, Geometry((2, 2, 2), (1.0, 1.0, 1.0))), tmp_path / name)
    assert showcase(num_cases=0)._dsc(tmp_path) == pytest.approx(0.8)


def test_missing_data_ends_the_demo_before_it_writes(tmp_path, showcase):
    acts = showcase(num_cases=0)
    with pytest.raises(InputError, match="data/A is no folder"):
        acts._import()
    assert not (tmp_path / "demo").exists()


def test_a_finished_demo_starts_anew_and_an_interrupted_one_goes_on(tmp_path):
    folder = tmp_path / "demo"
    _start_anew(folder)
    for name in ("sites", "federation", "mine"):
        (folder / name).mkdir()
    _start_anew(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["federation", "mine", "sites"]
    (folder / DONE).touch()
    _start_anew(folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
