"""The simulation of a round against times that a hand can work out, its limits against the code, its tables in docs."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, HEARTBEAT_BASE_MULTIPLIER
from hypothesis import given
from hypothesis import strategies as st

from client.node import HEARTBEAT_S
from client.node_gate import POLL_S
from client.transfers import AT_ONCE
from common.experiment import RoundConfig
from deploy import scale
from deploy.scale import Plan, calls_processors, lines, reached, shared, simulate, tables, training_s, written
from deploy.scale_costs import COSTS, LIMITS, Costs
from server.sites import POLL_MAX_S
from server.waiting import PROGRESS_S, PROGRESS_SITE_S

ROOT = Path(__file__).parents[1]
FREE = Costs(**{each.name: 0.0 for each in fields(Costs)})
"""Nothing costs anything."""
LINE_H = scale.MODEL_MB * 8 / 3600
"""Hours for a model at 1 Mbit/s."""


@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=30), st.floats(1e-3, 1e4))
def test_a_line_is_shared_so_that_who_gets_less_than_the_most_is_held_back_by_itself(caps, total):
    caps = np.array(caps)
    got = shared(caps, total)
    assert (got <= caps).all()
    assert got.sum() == pytest.approx(min(total, caps.sum()))
    held_back = got < got.max() * (1 - 1e-9)
    assert got[held_back] == pytest.approx(caps[held_back])


def test_sites_that_cost_nothing_take_their_lines_and_their_training(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((20.0, 0.5), (4.0, 0.5)))
    assert lines(2, FREE) == [20.0, 4.0]
    bare = simulate(Plan(2, training_h=0.0), FREE, LIMITS)
    assert bare.hours == pytest.approx(2 * LINE_H / 4)
    assert (bare.down_mbit, bare.up_mbit, bare.transferring) == (pytest.approx(24), pytest.approx(20), 2)
    whole = simulate(Plan(2), FREE, LIMITS)
    assert whole.hours == pytest.approx(2 * LINE_H / 4 + training_s(Plan(2))[1] / 3600)


def test_a_narrow_line_of_the_coordinator_is_what_all_wait_for(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((100.0, 1.0),))
    outcome = simulate(Plan(10, line_mbit=100.0, training_h=0.0), FREE, LIMITS)
    assert outcome.hours == pytest.approx(2 * 10 * LINE_H / 100)
    assert outcome.down_mbit == outcome.up_mbit == pytest.approx(100)


def test_a_slow_gateway_is_what_all_wait_for(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((100.0, 1.0),))
    slow = replace(FREE, gateway_ms_per_mb=100.0)  # 80 Mbit/s
    outcome = simulate(Plan(10, training_h=0.0), slow, LIMITS)
    assert outcome.hours == pytest.approx(2 * 10 * LINE_H / 80)


def test_a_slow_superlink_is_what_all_wait_for_and_calls_leave_it_less(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((100.0, 1.0),))
    slow = replace(FREE, superlink_ms_per_mb=100.0)  # 80 Mbit/s
    outcome = simulate(Plan(10, training_h=0.0), slow, LIMITS)
    assert outcome.hours == pytest.approx(2 * 10 * LINE_H / 80)
    assert outcome.superlink == pytest.approx(1000 / 80)
    half = replace(slow, look_ms=500 * LIMITS.node_look_s / 10 / (1 + LIMITS.node_look_s / LIMITS.sign_of_life_s))
    assert calls_processors(10, half, LIMITS) == pytest.approx(0.5)
    assert simulate(Plan(10, training_h=0.0), half, LIMITS).hours == pytest.approx(2 * outcome.hours)


def test_an_overhead_makes_a_line_slower(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((4.0, 1.0),))
    outcome = simulate(Plan(1, training_h=0.0), replace(FREE, overhead_4=25.0), LIMITS)
    assert outcome.hours == pytest.approx(2 * LINE_H * 1.25 / 4)


def test_replies_are_taken_one_after_another_and_checked_in_the_end(monkeypatch):
    monkeypatch.setattr(scale, "MIX", ((100.0, 1.0),))
    costs = replace(FREE, app_ms_per_mb=10.0, check_ms=2.0, check_ms_per_site=1.0, mean_ms=3.0, round_s=4.0)
    outcome = simulate(Plan(3, training_h=0.0), costs, LIMITS)
    assert outcome.end_h * 3600 == pytest.approx(3 * 9.54 + 3 * scale.MODEL_MILLIONS * 8e-3 + 4)
    assert outcome.hours == pytest.approx(2 * LINE_H / 100 + outcome.end_h)
    assert outcome.disk_gb == pytest.approx(
        (3 + scale.NUM_KEPT + 3) * 0.954
    )  # all wait: there on arrival, and as spooled


def test_half_the_bytes_take_half_the_time():
    whole, half = (simulate(Plan(10, each, training_h=0.0), FREE, LIMITS) for each in ("fp32", "fp16"))
    assert half.hours == pytest.approx(whole.hours / 2)


def test_training_times_are_spread_about_their_median():
    hours = [each / 3600 for each in training_s(Plan(1001))]
    assert np.median(hours) == pytest.approx(scale.TRAINING_H)
    assert np.std(np.log(hours)) == pytest.approx(scale.SPREAD, rel=0.01)
    assert hours != sorted(hours)


def test_the_limits_are_those_of_the_code():
    conf = (ROOT / "server" / "templates" / "nginx.conf").read_text()
    assert LIMITS.node_look_s == POLL_S
    assert LIMITS.sign_of_life_s == HEARTBEAT_BASE_MULTIPLIER * HEARTBEAT_S
    assert (LIMITS.question_s, LIMITS.question_site_s) == (PROGRESS_S, PROGRESS_SITE_S)
    assert LIMITS.app_look_s == POLL_MAX_S
    assert LIMITS.parts == AT_ONCE
    assert LIMITS.part_mb == pytest.approx(FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE / 1e6, rel=1e-3)
    assert LIMITS.round_h * 3600 == RoundConfig().timeout_s
    for pattern, limit in (
        (r"limit_conn carrying_in_all (\d+);", LIMITS.carrying),
        (r"limit_conn carrying_from_one (\d+);", LIMITS.carrying_from_one),
        (r"worker_connections (\d+);", LIMITS.connections),
    ):
        assert [int(found) for found in re.findall(pattern, conf)] == [limit]


def test_what_gives_out_first_is_told_first():
    numbers = [number for number, *_ in reached(COSTS, LIMITS)]
    at = next(number for number, what, _ in reached(COSTS, LIMITS) if "by calls alone" in what)
    assert calls_processors(int(at) - 1, COSTS, LIMITS) <= 1 < calls_processors(int(at), COSTS, LIMITS)
    listed = [float(row.split("|")[-2]) for row in scale.limit_table(COSTS, LIMITS).splitlines()[2:]]
    assert listed == sorted(round(number) for number in numbers)


def test_the_tables_in_the_docs_are_what_the_command_prints():
    document = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert written(document, tables()) == document, "run: python -m deploy.scale --write docs/scale.md"


def test_a_document_without_a_place_for_tables_is_refused():
    with pytest.raises(ValueError, match="begin: python"):
        written("# Scale\n", tables())
