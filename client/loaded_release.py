"""This release's own code, loaded before a task comes: a task of the same code, to the byte, need not unpack it.

Flower unpacks the code of each task anew and imports it: 200 files and a second of a processor. Where it is this
release's own bundle, the modules that were loaded from the installed release are the same code. Any other that was
approved is unpacked and imported as ever, in a process that has forgotten these modules.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bundle import build_bundle, bundle_files

APP = "client.app"
"""The module with the ClientApp; whoever loads it has loaded all that it imports."""
OURS = ("client", "common", "server")
INSTALL, LOAD = "install_from_fab", "get_load_client_app_fn"
"""Flower's functions in `flwr.supernode.runtime.run_clientapp`, called in this order; a contract test guards them."""
Stamp = tuple[str, int, int, int]


@dataclass(frozen=True)
class InstalledRelease:
    """The hash of the installed release's bundle, and how its files were when it was made."""

    sha256: str
    stamps: tuple[Stamp, ...]

    @classmethod
    def read(cls) -> "InstalledRelease":
        """Returns the release as it is installed now."""
        stamps = _stamps()
        return cls(hashlib.sha256(build_bundle()).hexdigest(), stamps)

    @property
    def is_unchanged(self) -> bool:
        """Whether no file has been written since: what a task imports late comes from there."""
        return self.stamps == _stamps()


def _stamps() -> tuple[Stamp, ...]:
    return tuple(_stamp(name, path) for name, path in bundle_files().items())


def _stamp(name: str, path: Path) -> Stamp:
    status = path.stat()
    return name, status.st_ino, status.st_size, status.st_mtime_ns


def offer(release: InstalledRelease, flower: Any) -> None:
    """Has Flower's process for a ClientApp use the loaded modules where it is sent the bundle that they are.

    Args:
        release: whose modules are loaded.
        flower: the module `flwr.supernode.runtime.run_clientapp`.
    """
    install: Callable[..., Any] = vars(flower)[INSTALL]

    def install_unless_loaded(content: bytes, *rest: Any, **options: Any) -> Any:
        if hashlib.sha256(content).hexdigest() == release.sha256 and release.is_unchanged:
            vars(flower)[LOAD] = lambda **_: lambda *_: sys.modules[APP].app
            return None
        forget()
        return install(content, *rest, **options)

    vars(flower)[INSTALL] = install_unless_loaded


def forget() -> None:
    """Removes our modules, so that those of the code that a task came with are imported."""
    for name in [each for each in sys.modules if each.partition(".")[0] in OURS]:
        del sys.modules[name]
