import hashlib
import subprocess
import tomllib
import warnings
import zipfile
from pathlib import Path

import pytest

from common.bundle import RUN_KEY, build_bundle, bundle_files, write_bundle
from common.processes import flower_command, flower_environment

LISTED = Path(__file__).parent / "data" / "bundle.txt"
"""Every file that goes to the sites, one a line: what is added to the packages is added here, by hand."""


def tree(root):
    """A miniature checkout with what may and what may not leave."""
    for name in ("server/app.py", "server/__init__.py", "client/app.py", "common/networks/blocks.py", "LICENSE",
                 "server/templates/report.html", "deploy/demo.py", "configs/site.yaml", "tests/test_a.py",
                 "common/__pycache__/a.py", "client/secret.key", "README.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("app = None\n" if name.endswith("app.py") else f"# {name}\n")
    (root / "pyproject.toml").write_text('[project]\nname = "fedgtv"\nversion = "9.8.7"\n')
    return root


LEAVES = ["LICENSE", "client/app.py", "common/networks/blocks.py", "server/__init__.py", "server/app.py"]


def test_exactly_the_modules_and_the_licence_are_bundled(tmp_path):
    root = tree(tmp_path / "root")
    assert list(bundle_files(root)) == LEAVES
    bundle = write_bundle(tmp_path / "out", root)
    written = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    assert written == sorted([*LEAVES, "pyproject.toml"])
    assert tomllib.loads((bundle / "pyproject.toml").read_text())["project"]["version"] == "9.8.7"


def test_the_product_sends_the_files_that_are_listed_and_no_other():
    assert list(bundle_files()) == LISTED.read_text().splitlines()


def test_a_stale_file_of_an_older_bundle_is_gone(tmp_path):
    root = tree(tmp_path / "root")
    bundle = write_bundle(tmp_path / "out", root)
    (bundle / "server" / "old.py").touch()
    write_bundle(tmp_path / "out", root)
    assert not (bundle / "server" / "old.py").exists()


@pytest.fixture
def built(tmp_path):
    """A function that lets Flower build a bundle, and returns the file and its hash."""
    folder = tmp_path / "built"
    folder.mkdir()

    def build(bundle):
        for old in folder.glob("*.fab"):
            old.unlink()
        command = [flower_command("flwr"), "build", "--app", str(bundle)]
        environment = flower_environment(folder / ".flwr")
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (fab,) = folder.glob("*.fab")
        return fab, hashlib.sha256(fab.read_bytes()).hexdigest()

    return build


def test_flower_builds_all_of_it_and_the_hash_depends_on_the_sources_alone(tmp_path, built):
    root = tree(tmp_path / "root")
    _, first = built(write_bundle(tmp_path / "one", root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's
        assert hashlib.sha256(build_bundle(root)).hexdigest() == first
    fab, second = built(write_bundle(tmp_path / "two", root))
    assert first == second
    with zipfile.ZipFile(fab) as archive:
        assert sorted(archive.namelist()) == sorted([*LEAVES, "pyproject.toml", ".info/CONTENT"])
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    assert project["tool"]["flwr"]["app"]["config"] == {RUN_KEY: ""}
    (root / "client" / "app.py").write_text("app = 1\n")
    assert built(write_bundle(tmp_path / "one", root))[1] != first
