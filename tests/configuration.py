"""Every configuration model, an experiment made of steps, and what must be refused in one line."""

from typing import Any

import pytest

import common.experiment
from common import recipe, site_config, split, steps
from common.errors import ConfigError
from common.experiment import Experiment
from common.settings import Frozen, validate

STATISTICS = {"kind": "statistics"}


def experiment(*made: dict[str, Any], **fields: Any) -> Experiment:
    data = {"name": "demo", "sites": ["A", "B"], "steps": [STATISTICS, *made]} | fields
    return validate(data, Experiment, "demo.yaml")


def refused(data: Any, model: type[Any], *words: str) -> None:
    """The ConfigError is one line that names the origin and holds every one of `words`."""
    with pytest.raises(ConfigError) as caught:
        validate(data, model, "file.yaml")
    text = str(caught.value)
    assert text.startswith("file.yaml: ")
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


def models() -> dict[str, type[Frozen]]:
    """By name, every model that a configuration file is made of."""
    modules = (recipe, split, steps, common.experiment, site_config)
    found = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    return {each.__name__: each for each in found if issubclass(each, Frozen)}
