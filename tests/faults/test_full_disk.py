"""A disk that fills, at the coordinator and at a site: a clear message, the last good round kept, and going on.

`pytest -m slow tests/faults/test_full_disk.py`; as root, for disks of their own.
"""

import json

import pytest
from faults.disk import filled, small_disk
from faults.moments import Moment, wait_for
from faults.runs import MODEL, UnderWay, assert_same_bits

from common.checkpoint import load_weights
from common.errors import WorkError

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(900)]
END_S = 300.0
COORDINATOR_MB = 200
"""Enough for the space that a round wants free, and a run."""
LITTLE_BYTES = 8 << 20
"""Less than a round wants free, and much more than it needs."""
SITE = "B"
SITE_MB = 8


@pytest.fixture(scope="module")
def runs_disk(standing):
    """The coordinator's run folders are a small disk."""
    with small_disk(standing.federation.superlink.runs_folder, COORDINATOR_MB) as folder:
        yield folder


def go_on(standing, run, unbroken_run):
    """The same command again ends the run, with the unbroken run's bits."""
    with UnderWay(standing, run.experiment, run.name) as again:
        again.wait(END_S)
    assert_same_bits(again.folder / "models" / f"{MODEL}.safetensors", unbroken_run().model_path(MODEL))
    standing.assert_at_rest()


@pytest.mark.parametrize(
    ("moment", "left_bytes"), [(Moment("dispatch", 2, 0.0), LITTLE_BYTES), (Moment("upload", 2, 0.0), 0)]
)
def test_a_full_disk_of_the_coordinator_ends_the_run_after_its_last_good_round(
    standing, quick, unbroken_run, runs_disk, moment, left_bytes
):
    name = f"coordinator-{moment.phase}"
    with UnderWay(standing, quick(name), name) as run:
        wait_for(moment, run, standing)
        with filled(runs_disk, left_bytes), pytest.raises(WorkError) as ended:
            run.wait(END_S)
    print(json.dumps({"disk": "coordinator", **vars(moment), "told": str(ended.value)}))
    assert "disk" in str(ended.value)
    assert str(run.folder) in str(ended.value)
    last = run.records("round")[-1]["round"]
    assert 1 <= last <= 3
    assert load_weights(run.folder / "rounds" / MODEL / f"round-{last:04d}.safetensors")[0]
    go_on(standing, run, unbroken_run)


@pytest.mark.parametrize("place", ["work", "state"])
def test_a_full_disk_of_a_site_is_told_by_code_and_it_goes_on(standing, quick, unbroken_run, place):
    """From the start, so that not even the cases can be prepared, or their use be put on record."""
    name, folder = f"site-{place}", standing.configs[SITE].parent / place
    with small_disk(folder, SITE_MB) as disk:
        with filled(disk), UnderWay(standing, quick(name), name) as run, pytest.raises(WorkError) as ended:
            run.wait(END_S)
        print(json.dumps({"disk": place, "told": str(ended.value)}))
        assert f"{SITE} ({ {'work': 'disk-full', 'state': 'audit'}[place] })" in str(ended.value)
        go_on(standing, run, unbroken_run)


def test_a_disk_of_a_site_that_fills_under_way_costs_no_round(standing, quick, unbroken_run):
    """What is prepared is there already; a checkpoint that finds no room is none, and the work goes on."""
    with small_disk(standing.configs[SITE].parent / "work", SITE_MB) as disk:
        with UnderWay(standing, quick("site-late"), "site-late") as run:
            wait_for(Moment("upload", 2, 0.0), run, standing)
            with filled(disk):
                run.wait(END_S)
        assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", unbroken_run().model_path(MODEL))
        assert run.rounds_done_again() == set()
    standing.assert_at_rest()
