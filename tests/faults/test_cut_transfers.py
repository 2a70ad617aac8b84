"""A site's link is cut while a model is on its way to it, and while one is on its way back: what has come stays.

`pytest -m slow tests/faults/test_cut_transfers.py`; the site calls the gateway, over a line of 8 Mbit/s.
"""

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from faults.proxy import Link, Proxy
from faults.runs import MODEL, UnderWay, assert_same_bits, heavy, unbroken
from faults.standing import SITES, make_site, until
from federation.running import kept_up

from client.transfers import AT_ONCE
from server.gateway import nginx_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tls,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(nginx_path() is None, reason="nginx is not installed; on Debian: make nginx"),
]
CUT_SITE = "B"
LINE = Link(bits_per_s=8e6, round_trip_s=0.1, buffer_s=0.1)
MODEL_BYTES = 20_000_000
PART_BYTES = 1 << 20
OTHER_BYTES = 1_500_000
"""What a node sends and gets beside the model: code, tasks, signs of life, TLS."""
SHARE = 0.6
"""Of the model has come when the link is cut."""
END_S = 600.0


@dataclass(frozen=True)
class Cut:
    """How it is made in a download and an upload, and how many seconds either lasts."""

    how: str
    download_s: float
    upload_s: float

    def __str__(self):
        return self.how


CUTS = (Cut("refuse", 20, 200), Cut("silence", 20, 75), Cut("forget", 20, 75))
"""75 s are more than the lease of a node: the site is held for lost, and its upload goes on all the same. Flower keeps
an upload for 180 s. A download must go on before the lease ends, or the site is asked anew."""


def make(proxy, cut, seconds):
    """Cuts the link, and mends it after so long."""
    {"refuse": proxy.refuse, "silence": proxy.silence, "forget": lambda: proxy.silence(forget=True)}[cut.how]()
    time.sleep(seconds)
    proxy.mend()


@pytest.fixture(params=CUTS, ids=str)
def cut_run(request, start_standing, quick):
    """A run of one round whose link was cut in both directions, and the link."""
    cut, name, proxies = request.param, f"cut-{request.param}", []
    with ExitStack() as stack:

        def way(port):
            proxies.append(stack.enter_context(Proxy(port, LINE)))
            return proxies[0].port

        environment = {"FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(PART_BYTES)}
        standing = start_standing(name, ways={CUT_SITE: way}, environment=environment, gateway=True)
        stack.enter_context(kept_up(standing.federation))
        run, proxy = stack.enter_context(UnderWay(standing, heavy(quick(name, 1)), name)), proxies[0]
        until(lambda: proxy.down > SHARE * MODEL_BYTES, END_S)
        make(proxy, cut, cut.download_s)
        until(lambda: proxy.up > SHARE * MODEL_BYTES, END_S)
        make(proxy, cut, cut.upload_s)
        run.wait(END_S)
        yield run, proxy


def test_what_came_before_a_cut_is_not_sent_again(cut_run, tmp_path, tiny_cases):
    run, proxy = cut_run
    told = {"down": proxy.down, "up": proxy.up, "events": [each["event"] for each in run.records("site")]}
    print(json.dumps(told))
    again = AT_ONCE * PART_BYTES
    assert MODEL_BYTES < proxy.down < MODEL_BYTES + again + OTHER_BYTES
    assert MODEL_BYTES < proxy.up < MODEL_BYTES + again + OTHER_BYTES
    assert [each["dropped"] for each in run.records("round")] == [{}]
    configs = {site: make_site(tmp_path / site, site, tiny_cases) for site in SITES}
    expected = unbroken(tmp_path / "run", run.experiment, configs)
    assert_same_bits(run.folder / "models" / f"{MODEL}.safetensors", expected.model_path(MODEL))
