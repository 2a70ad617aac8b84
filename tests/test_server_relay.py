"""Cyclic weight transfer: how long a site that may be passed over is waited for; the rest is in whole experiments."""

import pytest

from common.experiment import RoundConfig
from server.relay import hop_timeout_s

CONFIG = RoundConfig(grace_s=60.0, patience=3.0, timeout_s=1000.0)


@pytest.mark.parametrize(
    ("earlier_s", "expected_s"),
    [
        ([], 1000.0),  # nothing is known of it
        ([100.0], 360.0),
        ([1.0, 100.0, 100.0, 20.0, 30.0, 40.0], 180.0),  # the median of the last five is 40
        ([900.0], 1000.0),
    ],
)
def test_a_site_is_waited_for_by_what_it_took_before(earlier_s, expected_s):
    assert hop_timeout_s(CONFIG, earlier_s) == expected_s
