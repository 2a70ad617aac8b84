"""Cyclic weight transfer: in a round the model goes from site to site, and each trains what the one before made of it.

Chang et al. 2018, "Distributed deep learning networks among institutions for medical imaging" (JAMIA 25(8)). Each hop
is a round of one site. All share one spool: a coordinator that was killed finds there what was answered, and asks only
those who come after.
"""

from collections.abc import Callable, Sequence
from statistics import median

from common.checkpoint import Weights
from common.errors import WorkError
from common.experiment import RoundConfig
from server.patience import NUM_EARLIER
from server.rounds import Outcome, Round
from server.strategy import Strategy

PASSED_OVER = "passed-over"
"""Why a site is left out that failed before the coordinator was killed, and without which others went on."""
Open = Callable[[str, Weights, Sequence[float] | None], Round]
"""Opens a site's hop from weights; at last how long the hops before took, or None where the site must answer."""


def pass_on(
    sites: Sequence[str], quorum: int, sent: Weights, strategy: Strategy, open_hop: Open, ask: Callable[[Round], None]
) -> Outcome:
    """Returns what the last site made of it; the norms are of each site's own step.

    Args:
        sites: in the order in which the model goes round.
        quorum: how many must train it; a site that fails is passed over as long as so many are left.
        sent: what the first site gets.
        strategy: makes weights of a single reply.
        open_hop: opens the round of one site.
        ask: returns when the hop's site has answered, or will not.

    Raises:
        WorkError: too few sites trained it; every one at fault is named with its reason.
    """
    weights, hops, dropped = sent, list[Outcome](), dict[str, str]()
    for number, site in enumerate(sites, 1):
        may_fail = len(dropped) < len(sites) - quorum
        hop = open_hop(site, weights, [each.answered_s for each in hops] if may_fail else None)
        if may_fail and hop.open_sites and any(hop.spool.find(later) for later in sites[number:]):
            hop.leave_out(site, PASSED_OVER)
        else:
            ask(hop)
        try:
            hops.append(hop.close(strategy))
        except WorkError as error:
            dropped |= hop.dropped
            if not may_fail:
                raise _stuck(hop.task.round, sites, quorum, dropped) from error
            continue
        weights = hops[-1].weights
    return Outcome(
        weights,
        {site: result for hop in hops for site, result in hop.results.items()},
        dropped,
        {site: norm for hop in hops for site, norm in hop.norms.items()},
        sum(hop.answered_s for hop in hops),
    )


def hop_timeout_s(config: RoundConfig, earlier_s: Sequence[float]) -> float:
    """Returns how long a site that may be passed over is waited for: by what its hops, or those before it, took."""
    if not earlier_s:
        return config.timeout_s
    return min(config.timeout_s, config.grace_s + config.patience * median(earlier_s[-NUM_EARLIER:]))


def _stuck(number: int, sites: Sequence[str], quorum: int, dropped: dict[str, str]) -> WorkError:
    told = ", ".join(f"{site} ({reason})" for site, reason in sorted(dropped.items()))
    return WorkError(
        f"round {number}: the model must go through {quorum} of {len(sites)} sites; at fault: {told}; each site's own "
        "log says why; run again to go on from the last site that answered"
    )
