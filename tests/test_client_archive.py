"""Bundles: the product's own is accepted, and more than fifty hostile archives are refused, nothing written."""

from pathlib import Path

import pytest
from hostile.bundles import FILES, HOSTILE, packed

from client.archive import read_bundle
from common.bundle import bundle_files
from common.errors import ApprovalError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's, of a duplicate name that a test writes


def test_a_decent_bundle_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(packed())
    assert (bundle.files, bundle.name, bundle.version) == (FILES, "x", "1")


def test_the_product_s_own_bundle_is_decent(own_bundle: bytes) -> None:
    bundle = read_bundle(own_bundle)
    assert sorted(bundle.files) == sorted([*bundle_files(), "pyproject.toml"])
    assert bundle.name == "fedgtv"


def test_there_are_at_least_fifty() -> None:
    assert len(HOSTILE) >= 50


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = HOSTILE[name]()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApprovalError) as refused:
        read_bundle(data)
    assert refused.value.code == "hostile-code"
    assert str(refused.value).isprintable()
    assert list(tmp_path.iterdir()) == []
