"""The coordinator, seen from the site: what `check` says of network, certificate and clock."""

from pathlib import Path

from client.contact import contact
from client.finding import Finding, Severity
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
        return [_finding("error", str(error))]
    if found.warnings:
        return [_finding("warning", line) for line in found.warnings]
    clock = "" if found.clock_s is None else f", clocks {abs(found.clock_s):.0f} s apart"
    until = "" if found.until is None else f", certificate valid until {found.until:%Y-%m-%d}"
    return [Finding("ok", SUBJECT, CHECK, f"{kit.coordinator} answers{clock}{until}")]


def _finding(severity: Severity, line: str) -> Finding:
    """Splits a message at its last semicolon, behind which the remedy stands."""
    what, _, remedy = line.rpartition("; ")
    return Finding(severity, SUBJECT, CHECK, what or remedy, remedy if what else "")
