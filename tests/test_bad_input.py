"""What a user gets wrong, through the real commands: one clear line on stderr, exit code 2, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from client.cli import main as site_main
from client.keys import make_key
from common.enrolment import read_join_request
from common.recipe import NetworkConfig, Recipe, StageConfig
from common.volume import Geometry, Volume, write_nifti
from deploy.simulate import main as simulate_main
from server.cli import main as coordinator_main
from server.federation import Federation
from server.provision import add_site

ROOT = Path(__file__).parents[1]
TARGET = np.array([[-2.0, -12, 33], [6, -12, 33], [6, -4, 33], [-2, -4, 33]])
FAR_UP_MM = np.array([0, 0, 500])
OTHER_RECIPE = Recipe(stage1=StageConfig(network=NetworkConfig(widths=(4, 8), strides=((1, 2, 2),))), stage2=None)


def tree(folder):
    """Every path below `folder` with its content; folders too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder in which the commands are typed."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def refused(work, command):
    """A function that runs a command, checks how it was refused, and returns the one line it printed."""

    def run(main, *arguments):
        before = tree(work)
        ended = command(main, *arguments)
        assert ended.code == 2, ended
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
        assert "unexpected" not in ended.err
        assert tree(work) == before
        return ended.err

    return run


@pytest.fixture
def experiment(work):
    """A function that writes e.yaml of sites A and B, changed by keywords."""

    def write(**changes):
        fields = {"name": "e", "sites": ["A", "B"], "steps": [{"kind": "statistics"}]}
        (work / "e.yaml").write_text(yaml.safe_dump(fields | changes))
        return work / "e.yaml"

    return write


@pytest.fixture
def site_yaml(work):
    (work / "site.yaml").write_text("site: A")


# A DICOM folder without a CT ---------------------------------------------------------------------------------------


@pytest.fixture
def folder_without_ct(work, write_ct, write_structures):
    slices = write_ct(work / "export" / "p1", np.zeros((3, 8, 9)))
    write_structures(work / "export" / "p1" / "rt.dcm", slices, {"GTVnx": [TARGET]})
    for path in (work / "export").rglob("ct-*.dcm"):
        path.unlink()
    return work / "export"


def test_import_of_a_folder_without_ct(refused, site_yaml, folder_without_ct):
    assert "no CT among 1 file;" in refused(site_main, "import", folder_without_ct)


def test_segment_of_a_folder_without_ct(tmp_path, refused, folder_without_ct, write_model):
    model = write_model(tmp_path / "m.safetensors")
    line = refused(site_main, "segment", folder_without_ct, "--model", model, "--out", "out", "--device", "cpu")
    assert str(folder_without_ct) in line


# A label outside the image -----------------------------------------------------------------------------------------


@pytest.fixture
def drawn_case(work, write_ct, write_structures):
    def write(name, contour):
        slices = write_ct(work / "export" / name, np.zeros((4, 24, 24)), PatientID=name)
        write_structures(work / "export" / name / "rt.dcm", slices, {"GTVnx": [contour]})

    return write


def test_a_label_outside_the_image(work, refused, site_yaml, drawn_case):
    drawn_case("p1", TARGET + FAR_UP_MM)
    line = refused(site_main, "import", work / "export")
    assert line.startswith("refused: p1: ")
    assert "outside the image along z" in line


def test_a_label_outside_the_image_does_not_stop_the_others(work, command, site_yaml, drawn_case):
    drawn_case("p1", TARGET + FAR_UP_MM)
    drawn_case("p2", TARGET)
    ended = command(site_main, "import", work / "export")
    assert (ended.code, ended.out) == (0, "1 imported, 0 unchanged, 1 refused\nlook at them: fedgtv-site check\n")
    assert ended.err.startswith("refused: p1: ")
    assert ended.err.count("\n") == 1
    assert sorted(path.name for path in (work / "cases").iterdir()) == ["A-0001", "cases.json", "pseudonyms.json"]


def test_simulate_names_the_site_of_which_nothing_can_be_imported(work, command, experiment):
    image = Volume(np.zeros((4, 8, 9), np.int16), Geometry((4, 8, 9), (3.0, 1.0, 1.0)))
    for site in ("A", "B"):
        (work / "data" / site / "p1").mkdir(parents=True)
        write_nifti(image, work / "data" / site / "p1" / "ct.nii.gz")
    path = experiment(simulation={"source": "folder", "folder": str(work / "data")})
    ended = command(simulate_main, path)
    assert ended.code == 2
    assert "site A: none of 1 cases could be imported; p1: " in ended.err
    assert ended.err.count("\n") == 1
    assert not (work / "runs" / "e" / "experiment.yaml").exists()


def test_simulate_refuses_a_strategy_option_before_anything_is_written(work, refused, experiment):
    steps = [{"kind": "train", "model": "m", "rounds": 1, "strategy_options": {"foo": 1}}]
    line = refused(simulate_main, experiment(steps=steps))
    assert "strategy_options: 'foo' is no option of fedavg" in line


# A YAML with an unknown key, or not YAML --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{site: A, colour: red}", "unknown key 'colour'"),
        ("{site: A, policy: {min_case: 1}}", "unknown key 'policy.min_case'"),
        ("{site: A, site: B}", "key 'site' is given twice"),
        ("site: [A", "not YAML"),
        ("A", "expected a mapping"),
        ("cases: there", "key 'site' is missing"),
        ("{site: A, num_threads: -1}", "num_threads"),
        ("{site: A, devices: [cuda:0]}", "devices: expected two or more; name a single one as `device`"),
    ],
)
@pytest.mark.parametrize("arguments", [("check",), ("import", "."), ("evaluate", "--model", "m.safetensors")])
def test_a_wrong_site_yaml(work, refused, write_model, arguments, text, words):
    write_model(work / "m.safetensors")
    (work / "site.yaml").write_text(text)
    line = refused(site_main, *arguments)
    assert words in line
    assert "site.yaml" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "unknown key 'epochs'"),
        ({"recipe": {"training": {"learning_rate": 1}}}, "unknown key 'recipe.training.learning_rate'"),
        ({"recipe": "none.yaml"}, "none.yaml: cannot be read"),
        ({"steps": [{"kind": "guess"}]}, "statistics"),
    ],
)
def test_a_wrong_experiment(refused, experiment, changes, words):
    path = experiment(**changes)
    assert words in refused(simulate_main, path)
    assert words in refused(coordinator_main, "run", path)


# A site named twice, a site that is missing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ["A", "B", "A"]},
        {"steps": [{"kind": "train", "model": "m", "sites": ["A", "A"]}]},
        {"steps": [{"kind": "statistics"}, {"kind": "local", "model": "m", "sites": ["A", "B", "A"]}]},
    ],
)
def test_a_site_named_twice(refused, experiment, changes):
    path = experiment(**changes)
    for line in (refused(simulate_main, path), refused(coordinator_main, "run", path)):
        assert "'A'" in line
        assert "twice" in line


def test_a_sites_cases_given_twice(work, refused, experiment):
    path = experiment()
    path.write_text(path.read_text() + "simulation:\n  cases:\n    A: 1\n    B: 1\n    A: 2\n")
    assert "key 'A' is given twice" in refused(simulate_main, path)


@pytest.fixture
def federation(work, tmp_path):
    """A federation in which A alone is enrolled."""
    federation = Federation.create(work / "federation", "example.org:8443")
    request = read_join_request(make_key("A", tmp_path / "keys").request)
    add_site(federation.superlink().sites_file, request, 7)
    return federation


def test_a_site_enrolled_twice(tmp_path, refused, federation):
    line = refused(coordinator_main, "enrol", make_key("A", tmp_path / "other").request)
    assert "site 'A': enrolled already" in line
    assert "revoke it first" in line


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff", b'{"site": "B", "coordinator": "h:1"}'])
def test_what_is_no_join_request(tmp_path, refused, federation, content):
    path = tmp_path / "B.join.json"
    if content is not None:
        path.write_bytes(content)
    told = "No such file or directory" if content is None else "no join request"
    line = refused(coordinator_main, "enrol", path)
    assert f"{path}: {told}; give the file SITE.join.json that fedgtv-site init wrote" in line


def test_a_site_that_is_not_enrolled(refused, experiment, federation):
    assert "site 'B' is not enrolled (enrolled: A)" in refused(coordinator_main, "run", experiment())


def test_a_step_over_a_site_that_the_experiment_does_not_name(refused, experiment):
    path = experiment(steps=[{"kind": "train", "model": "m", "sites": ["C"]}])
    assert "step 1 names site 'C'; expected one of A, B" in refused(simulate_main, path)


def test_a_site_without_a_folder_or_without_phantoms(work, refused, experiment):
    (work / "data" / "A").mkdir(parents=True)
    path = experiment(simulation={"source": "folder", "folder": str(work / "data")})
    assert "data/B is no folder" in refused(simulate_main, path)
    assert "site 'B' has no cases" in refused(simulate_main, experiment(simulation={"cases": {"A": 1}}))


# A checkpoint of another network -----------------------------------------------------------------------------------


@pytest.fixture
def scan(work, tiny_hu):
    write_nifti(Volume(tiny_hu, Geometry(tiny_hu.shape, (4.0, 4.0, 4.0))), work / "ct.nii.gz")
    return work / "ct.nii.gz"


@pytest.fixture
def with_model(work, refused, scan, make_site):
    """A function that gives a model to both commands that read one, and returns their lines."""
    config = make_site(work / "A")

    def run(model):
        segment = refused(site_main, "segment", scan, "--model", model, "--out", "out", "--device", "cpu")
        return segment, refused(site_main, "evaluate", "--model", model, "--config", config)

    return run


def test_weights_of_another_network(work, with_model, write_model):
    for line in with_model(write_model(work / "m.safetensors", recipe=OTHER_RECIPE)):
        assert f"{work / 'm.safetensors'}: checkpoint of another network: stage1." in line


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_model(work, with_model, content):
    (work / "m.safetensors").write_bytes(content)
    for line in with_model(work / "m.safetensors"):
        assert "m.safetensors" in line


def test_a_model_cut_short(work, with_model, write_model):
    path = write_model(work / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    for line in with_model(path):
        assert "cannot be read as weights" in line


def test_a_model_that_is_not_there(work, with_model):
    for line in with_model(work / "none.safetensors"):
        assert "none.safetensors" in line


# As a process of its own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("client.cli", ["check", "--config", "none.yaml"], "none.yaml: cannot be read"),
        ("server.cli", ["status", "--folder", "none"], "holds no federation.yaml"),
        ("deploy.simulate", ["none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_a_process_ends_with_one_line_and_code_2(work, module, arguments, words):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(work) == {}
