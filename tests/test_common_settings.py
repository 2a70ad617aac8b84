"""Configuration as such: what is refused, in one line that names the thing, its value and what was expected."""

import re
from pathlib import Path
from typing import Any

import pytest
from configuration import models, refused
from pydantic import ValidationError

from common.errors import ConfigError
from common.recipe import Recipe, TrainingConfig
from common.settings import fingerprint, load_yaml, validate
from common.site_config import SiteConfig
from common.split import SplitConfig

NO_NAME = "expected up to 63 letters, digits, _, . and -, the first a letter or digit"


def test_an_unknown_key_is_named_with_its_place() -> None:
    refused({"training": {"momentun": 0.9}}, Recipe, "unknown key 'training.momentun'", "spelling")


def test_a_missing_key_is_named() -> None:
    refused({}, SiteConfig, "key 'site' is missing; add it")


def test_a_value_out_of_range_is_shown_with_the_range() -> None:
    refused({"training": {"momentum": 1.5}}, Recipe, "training.momentum", "less than 1", "given: 1.5")
    refused({"training": {"autocast": "fp8"}}, Recipe, "training.autocast", "'auto', 'bf16' or 'off'", "given: 'fp8'")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(value: str) -> None:
    refused({"lr0": float(value)}, TrainingConfig, "lr0", "finite number", f"given: {value}")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"ingest": {"structures": "^gtv"}}, "ingest.structures: expected a list, such as [one, two] (given: '^gtv')"),
        ({"ingest": {"structures": []}}, "ingest.structures: expected a list of at least 1 (given: [])"),
        (
            {"site": "A B"},
            "site: expected up to 63 letters, digits, _, . and -, the first a letter or digit (given: 'A B')",
        ),
    ],
)
def test_faults_are_told_in_a_site_s_words(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as told:
        validate({"site": "A"} | data, SiteConfig, "site.yaml")
    assert str(told.value) == f"site.yaml: {words}"


def test_a_site_that_has_no_file_yet_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(No such file or directory\); make one with `fedgtv-site init SITE`"):
        load_yaml(tmp_path / "site.yaml", SiteConfig)


def test_further_faults_are_counted() -> None:
    refused({"lr0": 0, "momentum": 2, "power": -1}, TrainingConfig, "lr0", "(and 2 more)")


@pytest.mark.parametrize("name", ["", "../A", "A/B", "A\n", ".hidden", "a" * 64, "Müller", "A B"])
def test_names_become_file_names(name: str) -> None:
    refused({"site": name}, SiteConfig, NO_NAME, repr(name))


def test_configuration_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().training.lr0 = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "holds list; expected a mapping"),
        (b"", "holds NoneType; expected a mapping"),
        (b"site: [A\nother", "not YAML"),
        (b"site: \xff\xfe", "cannot be read (not UTF-8 text)"),
        (b"site: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {re.escape(words)}[^\n]*$"):
        load_yaml(path, SiteConfig)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\); give the path"):
        load_yaml(tmp_path / "none.yaml", Recipe)


def test_a_fingerprint_changes_with_every_part() -> None:
    parts = [(), (1,), ("1",), (None,), (1, 2), (Recipe(),), (SplitConfig(),), (SplitConfig(seed=1),)]
    prints = [fingerprint(*part) for part in parts]
    assert len(set(prints)) == len(parts)
    assert prints == [fingerprint(*part) for part in parts]
    assert re.fullmatch("[0-9a-f]{16}", prints[0])


def test_every_field_says_what_it_is() -> None:
    """But for `kind`, which names its step."""
    bare = [
        f"{model.__name__}.{name}"
        for model in models().values()
        for name, field in model.model_fields.items()
        if name != "kind" and not field.description
    ]
    assert len(models()) > 15
    assert bare == []
