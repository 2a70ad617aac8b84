"""What a coordinator hands an enrolled site: its address and the authority's certificate. No secret is in it."""

import json
from pathlib import Path

from pydantic import Field

from common.config import Frozen, Name, validate
from common.errors import ConfigError


class Kit(Frozen):
    """The file `SITE.kit.json`."""

    site: Name
    coordinator: str = Field(pattern=r"^[A-Za-z0-9.\-\[\]:]+:\d{1,5}$")
    """host:port."""
    authority: str = Field(pattern=r"-----BEGIN CERTIFICATE-----")
    """PEM."""


def write_kit(kit: Kit, path: Path) -> None:
    """Writes the kit as JSON."""
    path.write_text(json.dumps(kit.model_dump(), indent=2) + "\n", encoding="utf-8")


def read_kit(path: Path) -> Kit:
    """Returns the kit in `path` (ConfigError: missing, or not a kit)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a kit; give the SITE.kit.json that `enrol` wrote") from error
    return validate(data, Kit, str(path))
