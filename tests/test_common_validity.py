"""When a certificate's end is told, and in which words."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.validity import stage, warning

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "due"),
    [
        (timedelta(days=31), 0),
        (timedelta(days=30), 1),
        (timedelta(days=7, seconds=1), 1),
        (timedelta(days=7), 2),
        (timedelta(days=1), 3),
        (timedelta(days=-400), 3),
    ],
)
def test_stages_begin_at_30_7_and_1_days(left, due):
    assert stage(NOW + left, NOW) == due


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=29, hours=3), "29 days left, until 2027-03-30 15:00 UTC"),
        (timedelta(days=1, hours=3), "ends within two days, on 2027-03-02 15:00 UTC"),
        (timedelta(hours=3), "less than a day left, until 2027-03-01 15:00 UTC"),
        (timedelta(hours=-3), "expired on 2027-03-01 09:00 UTC"),
    ],
)
def test_words(left, words):
    assert warning("authority", NOW + left, "renew it", NOW) == f"authority: {words}; renew it"


@given(st.timedeltas(min_value=timedelta(days=-10), max_value=timedelta(days=100)))
def test_a_warning_is_one_line_exactly_when_a_stage_is_reached(left):
    told = warning("x", NOW + left, "y", NOW)
    assert (told is None) == (stage(NOW + left, NOW) == 0)
    assert told is None or "\n" not in told
