"""Whether a coordinator's daemons answer: for a look, and for a container's health."""

from dataclasses import dataclass

from server.certificate import read_certificate
from server.daemons import answers
from server.federation import Federation


@dataclass(frozen=True)
class Health:
    """How one daemon is."""

    good: bool
    told: str


def daemon_health(federation: Federation) -> list[Health]:
    """Returns whether the SuperLink runs, and whether what the sites call on this machine answers them.

    That is the gateway if one was started here, else the SuperLink itself.

    Raises:
        InputError: the authority's certificate, by which an answer is known, cannot be read.
    """
    superlink, authority = federation.superlink(), federation.certificates.authority
    if not superlink.tree.owned():
        return [Health(False, "superlink: not running; start it with `fedgtv-coordinator up`")]
    read_certificate(authority)
    gateway = federation.gateway(superlink)
    name, port = ("gateway", gateway.port) if gateway.tree.owned() else ("superlink", superlink.port)
    good = answers(port, authority)
    told = "answers" if good else "gives no answer with this federation's certificate"
    return [Health(True, "superlink: running"), Health(good, f"{name}: port {port} {told}")]
