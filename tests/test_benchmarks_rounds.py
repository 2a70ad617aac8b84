"""What the benchmark of rounds makes of what it sees: bytes, memory, times, and why something failed."""

import importlib
import os
from datetime import datetime
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script of the benchmarks, which looks for its neighbours there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def wire(script):
    return script("_wire")


@pytest.fixture
def family(script):
    return script("_family")


def test_a_round_is_parted_by_when_99_per_cent_came_and_one_per_cent_went(wire):
    passed = [
        wire.Passed(9.0, 700, 50),  # of the round before
        wire.Passed(11.0, 700 + 500, 50),
        wire.Passed(12.0, 700 + 995, 50 + 3),  # a sign of life on its way back
        wire.Passed(15.0, 700 + 1000, 50 + 30),
        wire.Passed(18.0, 700 + 1000, 50 + 2000),
        wire.Passed(21.0, 5000, 5000),  # of the next
    ]
    assert wire.round_trip(passed, 10.0, 20.0) == wire.RoundTrip(1000, 2000, 2.0, 3.0, 3.0, 2.0)


def test_the_parts_of_a_round_add_up_where_a_site_sends_before_it_has_all(wire):
    passed = [wire.Passed(1.0, 500, 500), wire.Passed(2.0, 600, 1000), wire.Passed(3.0, 1000, 1000)]
    trip = wire.round_trip(passed, 0.0, 4.0)
    assert trip == wire.RoundTrip(1000, 1000, 3.0, 0.0, 0.0, 1.0)
    assert trip.dispatch_s + trip.site_s + trip.upload_s + trip.after_s == 4.0


def test_a_round_in_which_nothing_passed_took_its_time_all_the_same(wire):
    assert wire.round_trip([wire.Passed(1.0, 70, 5)], 2.0, 5.0) == wire.RoundTrip(0, 0, 0.0, 0.0, 0.0, 3.0)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["python3.11", "/venv/bin/python", "/venv/bin/flwr-clientapp", "--insecure"], "ClientApp"),
        (["flwr-clientapp", "python", "-m", "client.worker_process"], "ClientApp"),  # forked, with a name of its own
        (["python", "python", "-P", "-m", "client.node_process"], "SuperNode"),
        (["nginx", "nginx: worker process"], "gateway"),
        (["python3", "python3", "-u", "-m", "nvflare.private.fed.app.client.worker_process"], "client's job"),
        (["bash", "bash", "sub_start.sh"], "other"),
        (["python", "python", "-c", "from multiprocessing.forkserver import main; main(3)"], "loaded libraries"),
    ],
)
def test_a_process_is_known_by_its_name_or_its_command(family, words, found):
    assert family.role(words) == found


def test_nvflare_s_rounds_are_read_from_its_log(script):
    lines = [
        "2026-01-02 03:04:05,250 - FedAvg - INFO - [identity=rounds] - ",
        80 * "-",
        f"{'Round 0 started.':^80}",
        80 * "-",
        "",
        "2026-01-02 03:04:06,000 - FedAvg - INFO - [identity=rounds] - Aggregated 1/3 results",
        "2026-01-02 03:04:07,500 - FedAvg - INFO - [identity=rounds] - ",
        80 * "=",
        f"{'Finished FedAvg.':^80}",
    ]
    began = datetime(2026, 1, 2, 3, 4, 5, 250_000).timestamp()
    marks_of = script("_nvflare_rounds").marks_of
    assert marks_of("\n".join(lines)) == [began, began + 2.25]
    assert marks_of("\n".join(lines[:6])) == [began]
    assert marks_of("") == []


def test_ratios_are_to_the_best_peer_and_the_first_round_does_not_count(script, wire):
    rounds = script("rounds")
    trips = [wire.RoundTrip(9, 9, 1, 1, 1, 1), wire.RoundTrip(2_000_000, 1_000_000, 1, 2, 3, 4)]
    used = [{"ClientApp": 9.0}, {"gateway": 0.5, "ClientApp": 1.5, "driver": 0.01}]
    rows = [
        rounds.Row("50", "product", "", [9.0, 3.0], 4.0, trips, [], 2_000_000_000, {"ClientApp": 500_000_000}, used),
        rounds.Row("50", "flower", "", [9.0, 6.0], 5.0, trips, [], 8_000_000_000, {"flwr command": 1}),
        rounds.Row("50", "nvflare", "not done within 5 s: broken"),
    ]
    assert rounds.table(rows).splitlines() == [
        "| 50 | product | 3.00 | 0.50 | 4.0 | 6.0 | 3.0 | 2.00 | 0.25 | ClientApp 0.50 |",
        "| 50 | flower | 6.00 | 1.00 | 5.0 | 6.0 | 3.0 | 8.00 | 1.00 |  |",
        "| 50 | nvflare | failed: not done within 5 s: broken | | | | | | | |",
    ]
    told = rounds.shares(rows[0])
    assert told == (
        "50, product: dispatch 1.00 s, at the site 2.00 s, upload 3.00 s, after it 4.00 s; "
        "of processors 2.00 s (ClientApp 1.50 s, gateway 0.50 s)"
    )


def test_processor_time_is_that_between_two_times_and_of_those_that_have_ended_too(family, tmp_path):
    use = family.UseByRole(tmp_path, 1)
    use._history = [(1.0, {"SuperLink": 5.0}), (2.0, {"SuperLink": 6.0, "ClientApp": 1.0}), (9.0, {"SuperLink": 99.0})]
    assert use.processor_s(1.5, 3.0) == {"SuperLink": 1.0, "ClientApp": 1.0}
    assert use.processor_s(0.0, 1.0) == {"SuperLink": 5.0}
    assert family._processor_s("1 (a b) c) S " + " ".join(map(str, range(4, 50)))) == pytest.approx(
        (14 + 15) / os.sysconf("SC_CLK_TCK")
    )


def test_a_failure_is_told_with_the_last_line_that_was_said(script, tmp_path):
    rounds = script("rounds")
    (tmp_path / rounds.LOG).write_text("starts\nValueError: broken\n")
    assert rounds.reason(1, tmp_path, 5.0) == "exit code 1: ValueError: broken"
    assert rounds.reason(None, tmp_path, 5.0) == "not done within 5 s: ValueError: broken"
    (tmp_path / rounds.LOG).write_text("")
    assert rounds.reason(2, tmp_path, 5.0) == "exit code 2: it said nothing"
