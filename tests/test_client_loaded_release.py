"""Code that is loaded before a task comes is used for that very code alone; any other is unpacked."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from client import loaded_release
from client.approval import own_hash
from client.loaded_release import APP, INSTALL, LOAD, InstalledRelease

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what Flower builds bundles with


@pytest.fixture
def flower() -> Any:
    """In the place of Flower's module: notes what it is asked to unpack."""
    unpacked: list[tuple[bytes, dict[str, Any]]] = []
    return SimpleNamespace(
        unpacked=unpacked,
        install_from_fab=lambda content, **options: unpacked.append((content, options)) or "installed",
        get_load_client_app_fn=lambda **_: lambda *_: "unpacked",
    )


@pytest.fixture
def kept_modules(monkeypatch: pytest.MonkeyPatch):
    """Lets a test forget our modules: those of the other tests are there again afterwards."""
    before = dict(sys.modules)
    yield
    sys.modules.clear()
    sys.modules.update(before)


def test_the_bundle_that_is_installed_is_not_unpacked(flower: Any, own_bundle: bytes, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, APP, SimpleNamespace(app="loaded"))
    release = InstalledRelease.read()
    loaded_release.offer(release, flower)
    assert getattr(flower, INSTALL)(own_bundle, skip_prompt=True) is None
    assert flower.unpacked == []
    assert getattr(flower, LOAD)(default_app_ref="", app_path=None, multi_app=True)("id", "1", "hash") == "loaded"


def test_other_code_is_unpacked_and_nothing_of_ours_is_left(flower: Any, own_bundle: bytes, kept_modules) -> None:
    loaded_release.offer(InstalledRelease.read(), flower)
    assert getattr(flower, INSTALL)(own_bundle + b"more", skip_prompt=True) == "installed"
    assert flower.unpacked == [(own_bundle + b"more", {"skip_prompt": True})]
    assert getattr(flower, LOAD)()("id") == "unpacked"
    assert not [name for name in sys.modules if name.partition(".")[0] in loaded_release.OURS]


def test_a_release_that_was_changed_since_is_unpacked(flower: Any, own_bundle: bytes, kept_modules, tmp_path) -> None:
    release = InstalledRelease.read()
    assert release.is_unchanged
    name, inode, size, time_ns = release.stamps[0]
    older = InstalledRelease(release.sha256, ((name, inode, size, time_ns - 1), *release.stamps[1:]))
    assert not older.is_unchanged
    loaded_release.offer(older, flower)
    assert getattr(flower, INSTALL)(own_bundle) == "installed"


def test_the_hash_is_that_by_which_the_gate_knows_the_release() -> None:
    assert InstalledRelease.read().sha256 == own_hash()


def test_the_app_can_be_loaded_where_processes_are_forked() -> None:
    """Nothing that it imports starts a thread."""
    program = (
        "import importlib, os, sys\n"
        "from client.warm_start import LIBRARIES, _unfit\n"
        "from client.loaded_release import APP\n"
        "for name in (*LIBRARIES, APP): importlib.import_module(name)\n"
        "if not os.fork(): print(_unfit(os.getppid()), flush=True); os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None"]
