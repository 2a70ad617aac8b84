"""The release that files and cards name."""

from importlib.metadata import PackageNotFoundError, version

from common import release as module
from common.release import release


def test_it_is_the_installed_one(monkeypatch):
    assert release() == f"fedgtv {version('fedgtv')}"

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert release() == "fedgtv, not installed"
