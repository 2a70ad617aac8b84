"""The coordinator, seen from the site: what `check` says of network, certificate and clock."""

from pathlib import Path

from client.contact import contact
from client.finding import Finding
from client.kit_place import placed_kit
from common.errors import FedgtvError

SUBJECT, CHECK = "coordinator", "contact"


def check_contact(config: Path) -> list[Finding]:
    """Returns findings on the way to the coordinator; none before a kit was put beside `config`."""
    try:
        kit = placed_kit(config)
        if kit is None:
            return []
        found = contact(kit)
    except FedgtvError as error:
        return [Finding.of("error", SUBJECT, CHECK, str(error))]
    if found.warnings:
        return [Finding.of("warning", SUBJECT, CHECK, line) for line in found.warnings]
    clock = "" if found.clock_s is None else f", clocks {abs(found.clock_s):.0f} s apart"
    until = "" if found.until is None else f", certificate valid until {found.until:%Y-%m-%d}"
    return [Finding("ok", SUBJECT, CHECK, f"{kit.coordinator} answers{clock}{until}")]
