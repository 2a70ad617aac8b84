"""Findings: the gravest counts."""

import pytest

from client.finding import Finding, gravest


@pytest.mark.parametrize(
    ("severities", "expected"),
    [
        ([], "ok"),
        (["ok"], "ok"),
        (["info", "ok"], "ok"),
        (["ok", "warning", "ok"], "warning"),
        (["warning", "error", "ok"], "error"),
    ],
)
def test_the_gravest_of_several(severities, expected):
    assert gravest(Finding(severity, "A-0001", "case", "") for severity in severities) == expected
