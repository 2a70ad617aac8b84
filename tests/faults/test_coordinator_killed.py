"""SIGKILL of the ServerApp, of the SuperLink, and of both, at random moments: each run ends by itself, bit for bit.

`pytest -m slow tests/faults/test_coordinator_killed.py`.
"""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from faults.moments import PHASES, Moment, landed, wait_for
from faults.runs import MODEL, NUM_ROUNDS, UnderWay, assert_same_bits
from federation.running import kept_up

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(3600)]
VICTIMS = {"serverapp": 1, "superlink": 1, "both": 2}
"""How many processes each is."""
NUM_MOMENTS = 10
NUM_FEDERATIONS = 2
END_S = 900.0
"""A busy machine takes several minutes for the quick experiment."""


@pytest.fixture(scope="module")
def series(request, start_standing, quick):
    """The runs of the selected tests, by victim and number, over several federations at the same time."""
    mine = [item for item in request.session.items if item.module is request.module]
    whole = any(not hasattr(each, "callspec") for each in mine)
    asked = {(each.callspec.params["who"], each.callspec.params["number"]) for each in mine if not whole}
    chosen = [(who, number) for who in VICTIMS for number in range(NUM_MOMENTS) if whole or (who, number) in asked]
    with ExitStack() as stack:
        done = {}
        for lane in range(min(NUM_FEDERATIONS, len(chosen))):
            standing = start_standing(f"lane-{lane}")
            stack.enter_context(kept_up(standing.federation))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            for who, number in chosen[lane::NUM_FEDERATIONS]:
                done[who, number] = pool.submit(kill_once, standing, quick(f"{who}-{number}"), who, number)
        yield done
        for each in done.values():
            each.cancel()


def kill_once(standing, experiment, who, number):
    """A run in which `who` is killed once; returns what was seen, when nothing but what waits for work is left."""
    moment = Moment.draw(number, NUM_ROUNDS, who)
    with UnderWay(standing, experiment, f"{who}-{number}") as run:
        wait_for(moment, run, standing)
        killed, at = victims(standing, who), time.monotonic()
        for process_id in killed:
            os.kill(process_id, signal.SIGKILL)
        told = {"who": who, "number": number, **vars(moment), "landed": landed(moment.round, run, standing)}
        assert len(killed) == VICTIMS[who]
        run.wait(END_S)
        told |= {"end_s": round(time.monotonic() - at, 1), "again": sorted(run.rounds_done_again())}
    standing.assert_at_rest()
    return run, told


def victims(standing, who):
    """Process ids of what is killed; for the SuperLink, of Flower's own process."""
    superlink = [standing.federation.superlink.tree.process.pid] if who in ("superlink", "both") else []
    return superlink + (standing.serverapps() if who in ("serverapp", "both") else [])


@pytest.mark.parametrize("number", range(NUM_MOMENTS))
@pytest.mark.parametrize("who", VICTIMS)
def test_a_killed_coordinator_ends_its_run_by_itself_with_the_same_bits(series, unbroken_run, who, number):
    run, told = series[who, number].result()
    print(json.dumps(told))
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", unbroken_run().model_path(MODEL))
    assert [each["round"] for each in run.records("round")] == list(range(1, NUM_ROUNDS + 1))
    assert len(told["again"]) <= 1


def test_the_kills_hit_every_phase_of_a_round(series):
    hit = {series[who, number].result()[1]["landed"] for who in VICTIMS for number in range(NUM_MOMENTS)}
    assert hit >= set(PHASES)
