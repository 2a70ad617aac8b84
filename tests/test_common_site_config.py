"""A site's own file, where it has several devices."""

from typing import Any

import pytest

from common.errors import ConfigError
from common.settings import validate
from common.site_config import SiteConfig


def site(**fields: Any) -> SiteConfig:
    return validate({"site": "A"} | fields, SiteConfig, "site.yaml")


def test_one_device_is_the_rule() -> None:
    assert site().device_names == ("auto",)
    assert site(device="cuda:3").device_names == ("cuda:3",)


def test_several_are_named_one_by_one() -> None:
    assert site(devices=["cuda:1", "cuda:0", "cuda:10"]).device_names == ("cuda:1", "cuda:0", "cuda:10")
    assert site(device="auto", devices=["cpu", "cpu"]).device_names == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"devices": "cuda:0,cuda:1"}, "devices: expected a list, such as [one, two]"),
        ({"devices": ["cuda:0"]}, "devices: expected two or more; name a single one as `device`"),
        ({"devices": ["auto", "cuda:1"]}, "devices: 'auto' is none of several; use GPUs by number"),
        ({"devices": ["cuda", "cuda:1"]}, "devices: 'cuda' is none of several; use GPUs by number"),
        ({"devices": ["cuda:0", "cuda:01"]}, "devices: 'cuda:01' is none of several"),
        ({"devices": ["cuda:0", "cuda:100"]}, "devices: 'cuda:100' is none of several"),
        ({"devices": ["cuda:0", "cuda:1", "cuda:0"]}, "devices: 'cuda:0' stands twice; name every GPU once"),
        ({"devices": ["cuda:0", "cpu"]}, "devices: GPUs and cpu; expected one of the two"),
        ({"device": "cuda:0", "devices": ["cpu", "cpu"]}, "device is 'cuda:0' beside devices; expected one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as told:
        site(**fields)
    assert words in str(told.value)
