"""What a coordinator hands an enrolled site: its address and the authority's certificate. No secret is in it."""

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from common.errors import ConfigError
from common.pem import certificates_in, pem_of
from common.settings import Frozen, Name, validate

_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def _checked(address: str) -> str:
    found = _ADDRESS.fullmatch(address)
    if not found or not 1 <= int(found[1]) <= 65535:
        raise ValueError("expected host:port with a port from 1 to 65535, such as coordinator.example.org:8443")
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""host:port; an IPv6 address stands in brackets."""


def _certificates(text: str) -> str:
    try:
        return pem_of(certificates_in(text.encode()))
    except ValueError as error:
        raise ValueError("expected certificates in PEM; the kit was damaged on its way, ask for it again") from error


class Kit(Frozen):
    """The file `SITE.kit.json`."""

    site: Name
    coordinator: Address
    authority: Annotated[str, AfterValidator(_certificates)]
    """PEM, one certificate or, after a renewal, more; of what else is given, nothing is kept."""


def kit_text(kit: Kit) -> str:
    """Returns the kit as JSON."""
    return json.dumps(kit.model_dump(), indent=2) + "\n"


def write_kit(kit: Kit, path: Path) -> None:
    """Writes the kit as JSON."""
    path.write_text(kit_text(kit), encoding="utf-8")


def read_kit(path: Path) -> Kit:
    """Returns the kit in `path` (ConfigError: missing, or not a kit)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a kit; give the SITE.kit.json that `enrol` wrote") from error
    if not isinstance(data, dict) or not Kit.model_fields.keys() <= data.keys():
        raise ConfigError(f"{path}: is no kit; give the SITE.kit.json that `enrol` wrote")
    return validate(data, Kit, str(path))
