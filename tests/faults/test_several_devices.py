"""Sites that train both stages at once: the bits of one device, also when a stage's process or its ClientApp dies.

`pytest -m slow tests/faults/test_several_devices.py`; two CPUs stand for two GPUs at each site.
"""

import os
import signal
from pathlib import Path

import pytest
from faults.runs import MODEL, UnderWay, assert_same_bits
from faults.standing import SITES, until

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(1800)]
WAIT_S = 600.0


@pytest.fixture(scope="module")
def standing(start_standing):
    return start_standing(site_fields={"device": "auto", "devices": ["cpu", "cpu"]})


def stage_processes(standing, site):
    """Process ids of a site's processes that train a stage, by their names."""
    return {
        each: name
        for each in standing.federation.nodes[site].tree.members()
        if (name := name_of(each)).startswith("stage")
    }


def name_of(process_id):
    try:
        return Path(f"/proc/{process_id}/comm").read_text().strip()
    except OSError:
        return ""


def both_at_work(standing, site):
    found = stage_processes(standing, site)
    return found if sorted(found.values()) == ["stage1 cpu", "stage2 cpu"] else None


def at_once(standing, site):
    """Waits for a site's two processes and returns their ids."""
    until(lambda: both_at_work(standing, site), WAIT_S, poll_s=0.02)
    return both_at_work(standing, site) or at_once(standing, site)


@pytest.mark.parametrize("who", ["stage", "clientapp"])
def test_a_process_that_is_killed_costs_a_repetition_and_no_bit(standing, quick, unbroken_run, who):
    with UnderWay(standing, quick(f"kill-{who}", 2), f"kill-{who}") as run:
        found = at_once(standing, "B")
        victims = [max(found)] if who == "stage" else list(standing.clientapps(["B"]))
        for process_id in victims:
            os.kill(process_id, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in found), WAIT_S)
        run.wait(WAIT_S)
    assert [each for each in run.records("site", site="B") if each["event"] in ("lost", "asked-again")]
    assert all(sorted(each["sites"]) == list(SITES) for each in run.records("round"))
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", unbroken_run(2).model_path(MODEL))
    standing.assert_at_rest()
    assert [stage_processes(standing, site) for site in SITES] == [{}] * 3
