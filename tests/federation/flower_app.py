"""A small app of Flower's own kind, written out as a project that Flower builds its bundle from."""

from collections.abc import Sequence
from pathlib import Path

PROJECT = """\
[project]
name = "{name}"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "fedgtv"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["{name}/**/*.py", "LICENSE"]

[tool.flwr.app.components]
serverapp = "{name}.server:app"
clientapp = "{name}.client:app"

[tool.flwr.app.config]
{keys}
"""


def write_app(folder: Path, name: str, client: str, server: str, keys: Sequence[str]) -> Path:
    """Writes an app of two modules, whose runs are configured by `keys`, and returns its folder."""
    package = folder / name
    package.mkdir(parents=True)
    config = "\n".join(f'{key} = ""' for key in keys)
    (folder / "pyproject.toml").write_text(PROJECT.format(name=name, keys=config))
    (folder / "LICENSE").write_text("Apache-2.0\n")
    (package / "__init__.py").touch()
    (package / "client.py").write_text(client)
    (package / "server.py").write_text(server)
    return folder
