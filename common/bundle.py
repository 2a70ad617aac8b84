"""The code that a run sends to the sites, as the folder from which Flower builds its bundle (FAB).

It is the same byte for byte on every machine that has the same release. Flower builds a bundle from a folder with a
pyproject.toml; an installed wheel has none, and a checkout holds more than may leave. So the folder is always
assembled here: every module of `server`, `client` and `common`, and the licence. Page templates stay behind: Flower
1.41 refuses to bundle them (only .py, .toml, .md, .yaml, .json and LICENSE pass), and the report is written by the
coordinator's command, not by the ServerApp.
"""

import json
import shutil
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from common.errors import WorkError

RUN_KEY = "run"
"""The one key of a run's configuration (`server.app` parses it); Flower takes no key that the bundle does not name."""
PACKAGES = ("client", "common", "server")
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


def build_bundle(root: Path | None = None) -> bytes:
    """Returns the bundle itself, the archive that Flower makes of `write_bundle`'s folder and `flwr run` sends.

    Equal sources make equal bytes: Flower 1.41 stores the files as they are, with one fixed date.
    """
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory() as folder:
        return build_fab_from_disk(write_bundle(Path(folder), root))


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
