"""The kit in its place beside site.yaml, where `join` and `check` find it."""

from pathlib import Path

from common.atomic import write_bytes_atomically
from common.config import SiteConfig, load_yaml
from common.errors import ConfigError, SiteError
from common.kit import Kit, read_kit

NAME = "kit.json"


def place_kit(kit: Path, config: Path) -> Path:
    """Copies the coordinator's `kit` beside the site's `config`, in place of an older one, and returns where it lies.

    Raises:
        ConfigError: `kit` is no kit, or `config` no configuration.
        SiteError: the kit is another site's.
    """
    own, site = load_yaml(config, SiteConfig).site, read_kit(kit).site
    if site != own:
        raise SiteError(f"{kit}: is site {site!r}'s kit, but {config} says {own!r}; use your own kit")
    place = config.parent / NAME
    write_bytes_atomically(place, kit.read_bytes())
    return place


def placed_kit(config: Path) -> Kit | None:
    """Returns the kit beside `config`; None where none was put there yet."""
    place = config.parent / NAME
    return read_kit(place) if place.exists() else None


def own_kit(config: Path) -> Kit:
    """Returns the kit beside `config` (ConfigError: there is none yet)."""
    kit = placed_kit(config)
    if kit is None:
        raise ConfigError(
            f"{config.parent / NAME}: no kit yet; when the coordinator has sent SITE.kit.json, put it in place with "
            "fedgtv-site init --kit SITE.kit.json"
        )
    return kit
