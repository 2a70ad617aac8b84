"""The demo's acts that need no running federation: import, check, keys and certificates, and what is cleared."""

import io

import numpy as np
import pytest
from rich.console import Console

from client.keys import key_files
from common.enrolment import read_join_request
from common.errors import ConfigError, InputError, WorkError
from common.experiment import Experiment
from common.volume import Geometry, Volume, write_nifti
from deploy.demo import DONE, _start_anew
from deploy.showcase import Showcase
from server.provision import add_site


@pytest.fixture
def showcase(tmp_path, tiny_hu, tiny_label):
    """A showcase over two sites whose cases are folders of tiny NIfTI files."""

    def make(num_cases=12, folder="demo"):
        grid = Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))
        for site in ("A", "B"):
            for number in range(num_cases):
                case = tmp_path / "data" / site / f"p{number}"
                case.mkdir(parents=True, exist_ok=True)
                hu = tiny_hu.copy()
                hu[0, 0, 1] += number  # no copy of another
                write_nifti(Volume(hu, grid), case / "ct.nii.gz")
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
    acts = showcase(num_cases=6)
    acts._import()
    acts._check()
    assert acts.configs == {site: tmp_path / "demo" / "sites" / site / "site.yaml" for site in ("A", "B")}
    assert "site A: 6 cases imported, 0 unchanged" in told(acts)
    page = tmp_path / "demo" / "sites" / "B" / "state" / "check.html"
    counts = "1 x device, 5 x duplicate, 6 x field-of-view, 1 x spacing, 1 x split"  # boxes: alike, and without a neck
    assert f"site B: no error; warnings: {counts}; pictures: {page}" in told(acts)
    assert page.read_text().count("<section") == 7


def test_a_site_that_cannot_train_ends_the_demo_by_name(tmp_path, showcase):
    acts = showcase(num_cases=3)
    acts._import()
    (tmp_path / "demo" / "sites" / "A" / "cases" / "cases.json").unlink()
    with pytest.raises(WorkError, match=r"site A: cases: .*cases\.json"):
        acts._check()


def test_a_demo_stopped_before_all_had_joined_makes_certificates_anew_but_no_keys(tmp_path, showcase):
    acts = showcase(num_cases=3)
    acts._import()
    first = acts._provision()
    key = tmp_path / "demo" / "sites" / "A" / "keys" / "site.key"
    before = (first.certificates.key.read_bytes(), key.read_bytes())
    (tmp_path / "demo" / "federation" / "federation.yaml").unlink()  # as if stopped right after the certificates
    again = showcase(num_cases=3)
    again._import()
    second = again._provision()
    assert second.config.address.startswith("localhost:")
    assert second.certificates.key.read_bytes() != before[0]
    assert key.read_bytes() == before[1]


def test_a_demo_stopped_after_all_had_joined_keeps_its_certificates(showcase):
    acts = showcase(num_cases=3)
    acts._import()
    first = acts._provision()
    sites_file = first.superlink().sites_file
    sites_file.parent.mkdir(parents=True, exist_ok=True)
    for number, (site, path) in enumerate(acts.configs.items()):
        request = read_join_request(key_files(site, path.parent / "keys").request)
        add_site(sites_file, request, 10 + number)
        (path.parent / f"{site}.kit.json").touch()
    before = first.certificates.key.read_bytes()
    assert acts._provision() == first
    assert first.certificates.key.read_bytes() == before


def test_a_demo_without_phantoms_or_training_is_refused(showcase):
    acts = showcase(num_cases=3)
    with pytest.raises(ConfigError, match="needs phantoms and a `train` step"):
        acts.run()


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
