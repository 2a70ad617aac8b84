"""What a pre-flight check says: one line of its table."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "ok", "info"]
GRAVEST_LAST = ("info", "ok", "warning", "error")
"""The order of the terminal's table: what matters most stands next to the prompt."""
CASE = "case"
"""The check that tells what a case is: its target's volume, its grid."""


@dataclass(frozen=True)
class Finding:
    """One line: an error keeps the site or the case from training; a warning wants a look; the rest is well.

    A `duplicate` alone is an error that trains all the same: which of the two goes, only the site can know. An
    `info` tells facts of what has other findings.
    """

    severity: Severity
    subject: str
    """A case's pseudonym, or what of the site was looked at."""
    check: str
    """What was checked, in a word that a script can rely on."""
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, severity: Severity, subject: str, check: str, line: str, remedy: str = "") -> "Finding":
        """Returns an error's message as a finding: the remedy stands behind its last semicolon; else it is `remedy`."""
        what, _, last = line.rpartition("; ")
        if not what or last.startswith("expected"):
            return cls(severity, subject, check, line, remedy)
        return cls(severity, subject, check, what, last)


def gravest(findings: Iterable[Finding]) -> Severity:
    """Returns the gravest severity; `ok` where there is no finding."""
    return max((each.severity for each in findings), key=GRAVEST_LAST.index, default="ok")
