"""The kit in its place beside site.yaml, where `join` and `check` find it."""

from pathlib import Path

from common.atomic import write_text_atomically
from common.errors import ConfigError, SiteError
from common.kit import Kit, kit_text, read_kit
from common.settings import load_yaml
from common.site_config import SiteConfig

NAME = "kit.json"
MODE = 0o644
"""Whatever the umask: the node trusts whom the kit names, so nobody else may change it."""


def given_kit(kit: Path, config: Path) -> Kit:
    """Returns what the file `kit` holds, which is not in its place yet.

    Raises:
        ConfigError: `kit` is no kit, or `config` no configuration.
        SiteError: the kit is another site's.
    """
    own, given = load_yaml(config, SiteConfig).site, read_kit(kit)
    if given.site != own:
        raise SiteError(f"{kit}: is site {given.site!r}'s kit, but {config} says {own!r}; use your own kit")
    return given


def place_kit(kit: Kit, config: Path) -> Path:
    """Writes the site's `kit` beside its `config`, in place of an older one, and returns where it lies."""
    place = config.parent / NAME
    write_text_atomically(place, kit_text(kit), MODE)
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
