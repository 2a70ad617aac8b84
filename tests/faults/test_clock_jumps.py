"""A clock that jumps, at a site and at the coordinator: told, and the run goes on when it is right again.

`pytest -m slow tests/faults/test_clock_jumps.py`; needs a C compiler.
"""

import json
import time

import pytest
from faults.clock import Clock
from faults.moments import Moment, wait_for
from faults.runs import MODEL, UnderWay, assert_same_bits
from federation.running import kept_up

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(900)]
SITE = "B"
HOUR_S = 3600
WRONG_S = 45.0
END_S = 300.0
COORDINATOR = "coordinator"


@pytest.fixture(scope="module")
def clocks(tmp_path_factory):
    """By whose: a site's, and the coordinator's."""
    return {who: Clock(tmp_path_factory.mktemp("clock")) for who in (SITE, COORDINATOR)}


@pytest.fixture(scope="module")
def faked(start_standing, clocks):
    """Three sites and a coordinator, some of whose clocks can be set."""
    of = {who: clock.environment() for who, clock in clocks.items()}
    standing = start_standing("clocks", of_coordinator=of[COORDINATOR], of_site={SITE: of[SITE]})
    with kept_up(standing.federation):
        yield standing


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("who", [SITE, COORDINATOR])
def test_a_clock_that_jumps_is_told_and_costs_no_bit(faked, quick, unbroken_run, clocks, who, ahead_s):
    told, name = [], f"clock-{who}-{ahead_s}"
    faked.federation.nodes[SITE].report = told.append
    with UnderWay(faked, quick(name), name) as run:
        wait_for(Moment("dispatch", 2, 1.0), run, faked)
        clocks[who].set(ahead_s)
        time.sleep(WRONG_S)
        clocks[who].set(0)
        right = time.monotonic()
        run.wait(END_S)
    print(json.dumps({"clock": who, "ahead_s": ahead_s, "end_s": round(time.monotonic() - right, 1), "told": told}))
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", unbroken_run().model_path(MODEL))
    assert all(each["dropped"] == {} for each in run.records("round"))
    assert any("set both by NTP" in line for line in told)
    faked.assert_at_rest()
