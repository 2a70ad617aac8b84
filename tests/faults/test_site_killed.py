"""SIGKILL of SuperNodes and ClientApps at random moments: who fails is named and comes back without a hand.

`pytest -m slow tests/faults/test_site_killed.py`; with a quorum of two and with all sites required, at the same time.
"""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from faults.runs import MODEL, UnderWay, assert_same_bits
from faults.standing import CLIENTAPP, SITES, role, until
from federation.running import kept_up

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(3600)]
NUM_KILLS = 10
WAVES = (3, 3, 2, 2)
"""Sites whose nodes are killed in one round, where all are required: each round then waits for the leases once."""
NAMED_S = 60.0
BACK_S = 600.0
ROUND_S = 3.0
"""About what a round takes: a node is killed within so long after the last one's end."""
WORK_S = 2.0
"""About half of what a ClientApp lives."""
GRACE_S = 20.0
"""Of the run with a quorum, so that its round closes before the lease of a killed node."""
ENDLESS, MANY = 500, 30
"""Rounds of a run that is stopped when it has shown enough, and of one that goes to its end after the last kill."""


@pytest.fixture(scope="module")
def kills(request, start_standing, quick):
    """What the selected tests look at, by who is killed and how many must answer: two federations at work."""
    mine = [each.callspec.params for each in request.session.items if each.module is request.module]
    with ExitStack() as stack:
        done = {}
        for quorum in sorted({each["quorum"] for each in mine}):
            standing = start_standing(f"quorum-{quorum}")
            stack.enter_context(kept_up(standing.federation))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            for who in [each["who"] for each in mine if each["quorum"] == quorum]:
                work = kill_with_quorum if quorum else kill_of_all
                done[who, quorum] = pool.submit(work, standing, quick, who)
        yield done
        for each in done.values():
            each.cancel()


def kill_with_quorum(standing, quick, who):
    """Kills one after the other, each when the site of the last is back; returns the run and what was seen of each."""
    chance, seen = random.Random(who), []
    experiment = quick(f"{who}-quorum", ENDLESS, quorum=2, grace_s=GRACE_S, patience=1.0)
    with UnderWay(standing, experiment, f"{who}-quorum") as run:
        for number in range(NUM_KILLS):
            until(lambda n=len(run.records("round")): len(run.records("round")) > n, BACK_S)
            site = chance.choice(SITES)
            after, at = kill(standing, who, site, chance, run)
            until(lambda s=site, n=after: back(run, s, n), BACK_S)
            closed = next(each for each in run.records()[after:] if each["kind"] == "round")
            seen.append({"number": number, "site": site, "named_s": seconds(naming(run, site, after), at)})
            seen[-1] |= {"closed_s": seconds(closed, at), "closed_with": sorted(closed["sites"])}
            seen[-1] |= {"back_s": seconds(back(run, site, after), at)}
    standing.assert_at_rest()
    return run, seen


def kill_of_all(standing, quick, who):
    """Kills in rounds that all sites have to answer, to the run's end; returns the run and what was seen of each."""
    chance, seen = random.Random(f"{who}-all"), []
    waves = WAVES if who == "supernode" else (1,) * NUM_KILLS
    with UnderWay(standing, quick(f"{who}-all", MANY), f"{who}-all") as run:
        for number, size in enumerate(waves, 1):
            until(lambda n=number: len(run.records("round")) >= n, BACK_S)
            killed = [(site, *kill(standing, who, site, chance, run)) for site in chance.sample(SITES, size)]
            until(lambda n=killed: all(again(run, site, after) for site, after, _ in n), BACK_S)
            for site, after, at in killed:
                seen.append({"number": len(seen), "site": site, "named_s": seconds(naming(run, site, after), at)})
                seen[-1] |= {"back_s": seconds(again(run, site, after), at)}
        run.wait(BACK_S)
    standing.assert_at_rest()
    return run, seen


def kill(standing, who, site, chance, run):
    """Kills at a random moment; returns how many lines the ledger then had, and when it was.

    A ClientApp that has handed its reply over leaves nothing to be asked again: the next one is killed.
    """
    while True:
        if who == "supernode":
            time.sleep(chance.uniform(0.0, ROUND_S))
            os.kill(standing.federation.nodes[site].tree.process.pid, signal.SIGKILL)
        else:
            until(lambda: kill_clientapp(standing, site, chance), BACK_S, poll_s=0.01)
        after, at = len(run.records()), time.time()
        if who == "supernode" or hit(run, site, after):
            return after, at


def hit(run, site, after):
    """Whether the site is named before the round that was under way closes."""
    until(lambda: naming(run, site, after) or any(each["kind"] == "round" for each in run.records()[after:]), BACK_S)
    return naming(run, site, after)


def kill_clientapp(standing, site, chance):
    """Whether a ClientApp that was seen at work still was after a random time, and has been killed."""
    found = list(standing.clientapps([site]))
    if found:
        time.sleep(chance.uniform(0.0, WORK_S))
    still = [each for each in found if role(each) == CLIENTAPP]
    for process_id in still:
        os.kill(process_id, signal.SIGKILL)
    return still


def naming(run, site, after):
    """The first line past so many that says that the site failed, or None."""
    lines = run.records()[after:]
    return next((each for each in lines if fails(each, site) or site in each.get("dropped", ())), None)


def fails(record, site):
    """A node that is back before anyone looks is not lost, but has lost its task: it is idle, and asked again."""
    return record["kind"] == "site" and record["site"] == site and record["event"] in ("lost", "error", "asked-again")


def back(run, site, after):
    """The first round past so many lines that counts the site, once it was named; or None."""
    lines, named = run.records()[after:], naming(run, site, after)
    if named is None:
        return None
    lines = lines[lines.index(named) :]
    return next((each for each in lines if each["kind"] == "round" and site in each["sites"]), None)


def again(run, site, after):
    """As `back`; of a site that is not named the second round: before it was killed it had answered the first.

    Such a site was there again before anyone needed it.
    """
    counted = [each for each in run.records()[after:] if each["kind"] == "round" and site in each["sites"]]
    return back(run, site, after) or (counted[1] if not naming(run, site, after) and len(counted) > 1 else None)


def seconds(record, at):
    """From a moment to a line of the ledger, whose times are whole seconds."""
    return None if record is None else round(time.mktime(time.strptime(record["time"][:19], "%Y-%m-%dT%H:%M:%S")) - at)


@pytest.mark.parametrize("who", ["clientapp", "supernode"])
@pytest.mark.parametrize("quorum", [2])
def test_a_round_closes_with_its_quorum_and_the_site_is_named_and_comes_back(kills, who, quorum):
    _, seen = kills[who, quorum].result()
    print(json.dumps({"who": who, "quorum": quorum, "seen": seen}))
    assert len(seen) == NUM_KILLS
    assert max(each["named_s"] for each in seen) <= NAMED_S
    assert max(each["closed_s"] for each in seen) <= NAMED_S
    assert min(len(each["closed_with"]) for each in seen) >= quorum


@pytest.mark.parametrize("who", ["clientapp", "supernode"])
@pytest.mark.parametrize("quorum", [0])
def test_a_round_that_needs_all_waits_and_ends_with_the_same_bits(kills, unbroken_run, who, quorum):
    run, seen = kills[who, quorum].result()
    print(json.dumps({"who": who, "quorum": quorum, "seen": seen}))
    assert len(seen) == NUM_KILLS
    assert sum(each["named_s"] is not None for each in seen) >= NUM_KILLS // 2
    assert who == "supernode" or all(each["named_s"] is not None for each in seen)
    assert all(sorted(each["sites"]) == list(SITES) for each in run.records("round"))
    expected = unbroken_run(len(run.records("round"))).model_path(MODEL)
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", expected)
