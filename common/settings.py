"""Configuration as such: frozen, validated, read from YAML; unknown keys are refused.

Triples are (z, y, x).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import ConfigError

Triple = tuple[int, int, int]
Positive = Annotated[int, Field(gt=0)]
Sizes = tuple[Positive, Positive, Positive]
TripleMm = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Fraction = Annotated[float, Field(ge=0, le=1)]
SHOWN = 120
"""Letters of a value in an error."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]
"""Names of sites, models and experiments: they become file names."""
FileName = Annotated[str, Field(pattern=r"^[^/*?\[\]]+$")]
"""A file's own name, without folders and wildcards."""


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}); correct it") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_regular_expression)]


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    absent: ClassVar[str] = "give the path of a YAML file"
    """The remedy where a file of it cannot be read."""


Model = TypeVar("Model", bound=Frozen)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Returns the validated configuration in `path`.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key is unknown, missing or out of range; the
            message names the file, the key, its value and what was expected.
    """
    return parse_yaml(_read(path, model.absent), model, str(path))


def load_mapping(path: Path) -> dict[str, Any]:
    """Returns the YAML mapping in `path` as it stands (ConfigError: missing, or no mapping)."""
    return _mapping(_read(path), str(path))


def parse_yaml(text: str, model: type[Model], origin: str) -> Model:
    """Returns the validated configuration in `text`; `origin` names it in errors (see `load_yaml`)."""
    return validate(_mapping(text, origin), model, origin)


def _read(path: Path, remedy: str = Frozen.absent) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        remedy = "let your account read it, then do it again" if isinstance(error, PermissionError) else remedy
        raise ConfigError(f"{path}: cannot be read ({reason}); {remedy}") from error


class _KeysOnce(yaml.SafeLoader):
    """YAML that refuses a key given twice, such as a site; plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"key {twice[0]!r} is given twice in the mapping at line {line}; give it once")
        return super().construct_mapping(node, deep)


def _mapping(text: str, origin: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _KeysOnce)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: holds {type(data).__name__}; expected a mapping of keys to values")
    return data


def validate(data: Any, model: type[Model], origin: str) -> Model:
    """Returns `data` as a `model`, or raises a one-line ConfigError naming the first key at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_fault(error, model)}") from error


def _first_fault(error: ValidationError, model: type[Frozen]) -> str:
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"]) or model.__name__
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; remove it or correct its spelling{more}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    message = _in_words(fault["type"], fault.get("ctx", {})) or fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (given: {shorten(repr(value), SHOWN)})"
    return f"{key}: {message}{shown}{more}"


def _in_words(kind: str, context: Mapping[str, Any]) -> str:
    """Says what pydantic says in Python's or regular expressions' terms; empty for other faults."""
    if kind in ("tuple_type", "list_type"):
        return "expected a list, such as [one, two]"
    if kind == "too_short":
        return f"expected a list of at least {context['min_length']}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME:
        return "expected up to 63 letters, digits, _, . and -, the first a letter or digit"
    return ""


def fingerprint(*parts: Frozen | Mapping[str, Any] | Sequence[str] | str | int | float | None) -> str:
    """Returns 16 hex digits that change whenever any part does: the key of caches and ledgers."""
    plain = [part.model_dump(mode="json") if isinstance(part, Frozen) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
