"""The check page: one file, closed to others and to the network, with every case and its findings as text."""

import base64
import hashlib
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from client.case_check import CheckedCase
from client.check_page import render, write_check_page
from client.finding import Finding
from client.quality import SiteCheck
from common.dataset import CaseEntry

WHEN = datetime(2026, 11, 26, 8, 30, tzinfo=UTC)
ATTACK = '<script>alert(1)</script> & "quoted"'


def case(number, severity, what="words", picture=b"\xff\xd8picture"):
    name = f"A-{number:04d}"
    facts = Finding("ok" if severity == "ok" else "info", name, "case", f"target of {number} ml")
    findings = (facts,) if severity == "ok" else (facts, Finding(severity, name, "spacing", what, "do this"))
    return CheckedCase(CaseEntry(name, name, ("i.nii.gz",)), findings, picture)


def site_check(*cases):
    machine = Finding("warning", "disk", "disk", "disk is nearly full", "free it")
    return SiteCheck((machine, *(finding for each in cases for finding in each.findings)), cases)


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page():
    return render(site_check(case(1, "ok"), case(2, "error", ATTACK), case(3, "warning", picture=None)), "A", WHEN)


def test_every_case_has_its_section_picture_and_findings(page):
    elements = Elements(page)
    assert [each["id"] for each in elements.all("section")] == ["the-site", "case-A-0001", "case-A-0002", "case-A-0003"]
    encoded = base64.b64encode(b"\xff\xd8picture").decode()
    assert [each["src"] for each in elements.all("img")] == [f"data:image/jpeg;base64,{encoded}"] * 2
    assert page.count("No picture: the image cannot be read.") == 1
    ranks = [(each.get("data-name"), each["data-grave"]) for each in elements.all("li")]
    assert ranks == [("", "-1"), ("A-0001", "2"), ("A-0002", "0"), ("A-0003", "1")]
    assert "<td>disk</td><td>disk is nearly full</td>" in page
    assert "<td>spacing</td>" in page
    assert [f"<p>Target of {number} ml.</p>" in page for number in (1, 2, 3)] == [True] * 3
    assert page.count("Nothing was found.") == 1
    assert "3 cases; 1 error, 2 warnings; checked 2026-11-26 08:30 UTC" in page
    assert re.findall(r"(All|Errors|Warnings|No finding) \((\d)\)", page) == [
        ("All", "3"),
        ("Errors", "1"),
        ("Warnings", "1"),
        ("No finding", "1"),
    ]


def test_it_says_that_it_stays(page):
    assert "holds images of patients under pseudonyms. It stays at this site" in page


def test_nothing_is_loaded_and_no_other_script_runs(page):
    elements = Elements(page)
    addresses = [each.get(key, "") for _, each in elements.found for key in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses if address)
    assert not re.search(r"https?://|@import|url\(", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [each["content"] for each in elements.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]


def test_words_from_files_are_text(page):
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page


def test_it_is_its_owners_alone(tmp_path):
    path = tmp_path / "state" / "check.html"
    write_check_page(site_check(case(1, "ok")), "A", path)
    write_check_page(site_check(case(1, "ok")), "A", path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
