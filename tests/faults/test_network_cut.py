"""The network between a site and the coordinator is cut for 5 s, 60 s and 10 minutes, and is slow, far and lossy.

`pytest -m slow tests/faults/test_network_cut.py`; the three federations are at work at the same time.
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from faults.moments import Moment, wait_for
from faults.proxy import Link, Proxy
from faults.runs import MODEL, NUM_ROUNDS, UnderWay, assert_same_bits, heavy, unbroken
from faults.standing import SITES, make_site
from federation.running import kept_up

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(3600)]
CUT_SITE = "B"
PHASES = ("dispatch", "upload")
"""What a network takes part in."""
LEASE_S = 40.0
"""A node that is silent for longer is lost."""
END_S = 900.0
SLOW_S = 2400.0
SLOW_LINK = Link(bits_per_s=4e6, round_trip_s=0.3, loss=0.01)
MODEL_BYTES = 20_000_000
NUM_SLOW_ROUNDS = 2


@dataclass(frozen=True)
class Cut:
    """How long, and how: connections break and are refused, or are silent; `forget`: what was open stays so."""

    seconds: float
    how: str

    def make(self, proxy):
        {"refuse": proxy.refuse, "silence": proxy.silence, "forget": lambda: proxy.silence(forget=True)}[self.how]()

    def __str__(self):
        return f"{self.seconds:.0f}s-{self.how}"


CUTS = (Cut(5, "silence"), Cut(5, "refuse"), Cut(5, "forget"), Cut(60, "refuse"), Cut(60, "forget"))
LONG_CUTS = (Cut(600, "forget"),)
SLOW = "slow"


@pytest.fixture(scope="module")
def runs(request, start_standing, quick):
    """The runs of the selected tests by cut or `SLOW`; each group has a federation of its own, all are at work."""
    chosen = [each.callspec.params["what"] for each in request.session.items if each.module is request.module]
    with ExitStack() as stack:
        done = {}
        for group, link in ((CUTS, Link()), (LONG_CUTS, Link()), ((SLOW,), SLOW_LINK)):
            mine = [each for each in chosen if each in group]
            if not mine:
                continue
            standing, proxy = behind_a_proxy(stack, start_standing, link)
            pool = stack.enter_context(ThreadPoolExecutor(1))
            for what in mine:
                work = run_slowly if what == SLOW else cut_once
                done[what] = pool.submit(work, standing, proxy, quick, what)
        yield done
        for each in done.values():
            each.cancel()


def behind_a_proxy(stack, start_standing, link):
    """A federation, one of whose sites calls its coordinator through a proxy."""
    proxies = []

    def way(port):
        proxies.append(stack.enter_context(Proxy(port, link)))
        return proxies[0].port

    standing = start_standing("network", ways={CUT_SITE: way})
    stack.enter_context(kept_up(standing.federation))
    return standing, proxies[0]


def cut_once(standing, proxy, quick, cut):
    """A run whose network is cut once, at a random moment; returns the run and what was seen."""
    chance = random.Random(str(cut))
    phase = chance.choice(PHASES)
    moment = Moment(
        phase, chance.randint(1, NUM_ROUNDS - 1), chance.uniform(0.0, 2.0)
    )  # a last reply may be in by then
    with UnderWay(standing, quick(f"cut-{cut}"), f"cut-{cut}") as run:
        wait_for(moment, run, standing)
        before = len(run.records("round"))
        cut.make(proxy)
        time.sleep(cut.seconds)
        proxy.mend()
        mended = time.monotonic()
        while len(run.records("round")) == before and run.alive:
            time.sleep(0.2)
        told = {"cut": str(cut), **vars(moment), "round_s": round(time.monotonic() - mended, 1)}
        run.wait(END_S)
        told |= {"again": sorted(run.rounds_done_again()), "events": events(run)}
    standing.assert_at_rest()
    return run, told


def events(run):
    return [f"{each['site']} {each['event']} {each['why']}" for each in run.records("site")]


def run_slowly(standing, proxy, quick, name):
    """Two rounds over the slow link, of a model of 20 MB."""
    with UnderWay(standing, heavy(quick(name, NUM_SLOW_ROUNDS)), name) as run:
        run.wait(SLOW_S)
        seconds = [each["seconds"] for each in run.records("round")]
        told = {"rounds_s": seconds, "bytes": proxy.num_bytes, "events": events(run)}
    standing.assert_at_rest()
    return run, told


@pytest.mark.parametrize("what", [*CUTS, *LONG_CUTS], ids=str)
def test_a_run_outlasts_a_cut_network_and_ends_with_the_same_bits(runs, unbroken_run, what):
    run, told = runs[what].result()
    print(json.dumps(told))
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", unbroken_run().model_path(MODEL))
    assert all(each["dropped"] == {} for each in run.records("round"))
    assert len(told["again"]) <= 1
    if what.seconds > LEASE_S:
        assert any(each.startswith(f"{CUT_SITE} lost") for each in told["events"])


@pytest.mark.parametrize("what", [SLOW])
def test_a_slow_far_and_lossy_link_finishes_with_a_model_of_20_mb(runs, tmp_path, quick, tiny_cases, what):
    run, told = runs[what].result()
    print(json.dumps(told))
    configs = {site: make_site(tmp_path / site, site, tiny_cases) for site in SITES}
    expected = unbroken(tmp_path / "run", run.experiment, configs)
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", expected.model_path(MODEL))
    model_bytes = sum(each.nbytes for each in expected.load_model(MODEL).values())
    assert model_bytes == pytest.approx(MODEL_BYTES, rel=0.02)
    assert told["bytes"] >= 2 * NUM_SLOW_ROUNDS * model_bytes  # there and back
    assert [each["dropped"] for each in run.records("round")] == [{}] * NUM_SLOW_ROUNDS
