"""The check as one HTML page for a physicist to page through: a picture of every case, what was found beside it.

Everything stands in the file, and a content security policy forbids the rest: no address is ever called. Without
scripts, as on paper, all cases stand one below the other.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from client.finding import CASE, GRAVEST_LAST, Finding, Severity, gravest
from client.quality import SiteCheck
from common.atomic import OWNERS, write_text_atomically
from common.private import private_folder

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Entry:
    """One case of the page."""

    case_id: str
    severity: Severity
    facts: str
    """What the case is; empty where its image cannot be read."""
    findings: tuple[Finding, ...]
    """The others, the gravest last."""
    picture: str
    """JPEG, base64; empty where there is none."""

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return len(GRAVEST_LAST) - 1 - GRAVEST_LAST.index(self.severity)


def write_check_page(check: SiteCheck, site: str, path: Path) -> None:
    """Writes the page for its owner alone: it shows patients."""
    private_folder(path.parent)
    write_text_atomically(path, render(check, site, datetime.now().astimezone()), OWNERS)


def render(check: SiteCheck, site: str, when: datetime) -> str:
    """Returns the page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = (TEMPLATES / "check.js").read_text(encoding="utf-8")
    entries = [_entry(case.case_id, check.about(case.case_id), case.picture) for case in check.cases]
    case_ids = {case.case_id for case in check.cases}
    own = tuple(finding for finding in check.findings if finding.subject not in case_ids)
    return environment.get_template("check.html").render(
        site=site,
        when=f"{when:%Y-%m-%d %H:%M %Z}",
        counts={"error": check.count("error"), "warning": check.count("warning")},
        totals={"all": len(entries)} | {each: sum(e.severity == each for e in entries) for each in GRAVEST_LAST},
        machine={"severity": gravest(own), "findings": own},
        entries=entries,
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _entry(case_id: str, findings: tuple[Finding, ...], picture: bytes | None) -> Entry:
    encoded = "" if picture is None else base64.b64encode(picture).decode("ascii")
    facts = " ".join(finding.what for finding in findings if finding.check == CASE)
    others = tuple(finding for finding in findings if finding.check != CASE)
    return Entry(case_id, gravest(findings), facts, others, encoded)
