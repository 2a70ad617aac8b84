"""The code that a run sends to the sites, as the folder from which Flower builds its bundle (FAB).

It is the same byte for byte on every machine that has the same release. Flower builds a bundle from a folder with a
pyproject.toml; an installed wheel has none, and a checkout holds more than may leave. So the folder is always
assembled here: every module of `server`, `client` and `common`, and the licence. Page templates stay behind: Flower
1.41 refuses to bundle them (only .py, .toml, .md, .yaml, .json and LICENSE pass), and the report is written by the
coordinator's command, not by the ServerApp.
"""

import hashlib
import json
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common.errors import WorkError
from common.processes import flower_command, flower_environment

PACKAGES = ("client", "common", "server")
RUN_KEY = "run"
"""The one key of a run's configuration (server.app parses it); Flower takes no key that the bundle does not name."""
PROJECT = """\
[project]
name = "fedgtv"
version = {version}
description = "Federated training of a cascaded MDR-UNet for gross tumour volumes on planning CT"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "fedgtv"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["server/**/*.py", "client/**/*.py", "common/**/*.py", "LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
{key} = ""
"""


@dataclass(frozen=True)
class Fab:
    """A built bundle: what a site approves is `sha256` (64 hex digits) of the file at `path`."""

    path: Path
    sha256: str


def bundle_files(root: Path | None = None) -> dict[str, Path]:
    """Returns where each file of the bundle lies, by its name in the bundle, sorted; pyproject.toml is not among them.

    Args:
        root: the folder that holds the packages and LICENSE; None: the installed ones.
    """
    base = _base(root)
    modules = [path for package in PACKAGES for path in (base / package).rglob("*.py")]
    files = {path.relative_to(base).as_posix(): path for path in modules if "__pycache__" not in path.parts}
    return dict(sorted((files | {"LICENSE": _licence(base)}).items()))


def write_bundle(folder: Path, root: Path | None = None) -> Path:
    """Assembles the bundle's source in `folder`/fedgtv, made anew, and returns that folder.

    Its bytes depend on the packages' sources and version alone.
    """
    target = folder / "fedgtv"
    shutil.rmtree(target, ignore_errors=True)
    for name, source in bundle_files(root).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)
    project = PROJECT.format(version=json.dumps(_version(_base(root))), key=RUN_KEY)
    (target / "pyproject.toml").write_text(project, encoding="utf-8")
    return target


def build_fab(bundle: Path, folder: Path) -> Fab:
    """Builds the bundle in `bundle` into `folder` with `flwr build`; its hash is the one that `flwr run` sends.

    Raises:
        WorkError: Flower refuses the bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = flower_environment(folder / ".flwr")
    command = [flower_command("flwr"), "build", "--app", str(bundle.resolve())]
    for old in folder.glob("*.fab"):
        old.unlink()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    built = list(folder.glob("*.fab"))
    if done.returncode or len(built) != 1:
        raise WorkError(f"{bundle}: Flower builds no bundle of it: {_without_frame(done.stdout + done.stderr)}")
    return Fab(built[0], hashlib.sha256(built[0].read_bytes()).hexdigest())


def _without_frame(text: str) -> str:
    """One line of what Flower prints inside a drawn box."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "╭╮╰╯─│"), " ")).split())


def _base(root: Path | None) -> Path:
    return root or Path(__file__).resolve().parent.parent


def _licence(base: Path) -> Path:
    """LICENSE of a checkout, or the copy that a wheel carries in its metadata."""
    if (base / "LICENSE").exists():
        return base / "LICENSE"
    installed = [file for file in metadata.files("fedgtv") or [] if file.name == "LICENSE"]
    if not installed:
        raise WorkError(f"{base}: holds no LICENSE, nor does the installed package; install fedgtv anew")
    return Path(str(installed[0].locate()))


def _version(base: Path) -> str:
    """The release, from the checkout's pyproject.toml or the installed package's metadata."""
    project = base / "pyproject.toml"
    if project.exists():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version("fedgtv")
