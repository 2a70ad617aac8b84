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


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("x is 3; expected 4; set it to 4", "x is 3; expected 4", "set it to 4"),
        ("x is 3; expected 4", "x is 3; expected 4", "try again"),
        ("x is gone", "x is gone", "try again"),
    ],
)
def test_a_message_is_split_before_its_remedy(line, what, remedy):
    assert Finding.of("error", "A-0001", "file", line, "try again") == Finding("error", "A-0001", "file", what, remedy)
