"""One call to the coordinator before joining: is it there, is it the right one, and do the clocks agree?

It goes the way that the node will go: the same HTTP library, the same proxy settings, the same authority and nothing
else. So what stops it would stop the node, and can be named here.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
from cryptography import x509
from cryptography.x509.oid import NameOID

from common.errors import ConfigError, SiteError, WorkError
from common.kit import Kit
from common.validity import warning

TIMEOUT_S = 15.0
AHEAD_S, BEHIND_S = 4.0, 300.0
"""Flower refuses a node's call that was signed more than 5 s in the future or 305 s in the past."""
LOOPBACK = ("all://localhost", "all://127.0.0.1")
NEARLY = 0.25
"""A clock that has used up so much of what is allowed is told of."""


@dataclass(frozen=True)
class Contact:
    """What the call found.

    `reached`: False where nothing answered, for now. `clock_s`: this clock less the coordinator's. `until`: when the
    server certificate ends. `warnings`: one line each.
    """

    reached: bool
    clock_s: float | None
    until: datetime | None
    warnings: tuple[str, ...]


def contact(kit: Kit) -> Contact:
    """Calls the coordinator of `kit` and returns what there is to know.

    Raises:
        WorkError: the other end is not the coordinator: another authority's certificate (a proxy that inspects TLS),
            another name's, an expired one, or no TLS at all.
        SiteError: the clocks differ too much for any call to be accepted.
        ConfigError: the environment names a proxy that is none for HTTPS.
    """
    _check_proxy()
    try:
        with _client(_trust(kit)) as client, client.stream("GET", _url(kit)) as answer:
            return _found(kit, answer, datetime.now(UTC))
    except httpx.TransportError as error:
        refused = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
        if refused is not None:
            raise WorkError(_why(kit, refused)) from error
        return Contact(False, None, None, (_unreached(kit, error),))


def _found(kit: Kit, answer: httpx.Response, now: datetime) -> Contact:
    clock_s = _clock_s(answer.headers.get("date"), now)
    if clock_s is not None and not -BEHIND_S < clock_s < AHEAD_S:
        raise SiteError(
            f"this machine's clock is {_apart(clock_s)} the coordinator's ({now:%Y-%m-%d %H:%M:%S} UTC here); every "
            "call would be refused; set the clock by NTP (timedatectl set-ntp true), then join again"
        )
    until = _certificate(answer.extensions["network_stream"]).not_valid_after_utc
    ending = warning("coordinator's certificate", until, "the coordinator renews it; nothing changes here")
    kits = warning("kit's authority", _authority_until(kit), "ask the coordinator for a new kit")
    return Contact(True, clock_s, until, tuple(line for line in (ending, kits, _nearly(clock_s)) if line))


def _clock_s(date: str | None, now: datetime) -> float | None:
    """Seconds that `now` is ahead of an HTTP date, to a second; None where the answer has none."""
    try:
        return (now - parsedate_to_datetime(date or "")).total_seconds()
    except ValueError:
        return None


def _nearly(clock_s: float | None) -> str | None:
    if clock_s is None or -BEHIND_S * NEARLY < clock_s < AHEAD_S:
        return None
    return f"this machine's clock is {_apart(clock_s)} the coordinator's; set it by NTP before it is too far off"


def _apart(clock_s: float) -> str:
    return f"{timedelta(seconds=round(abs(clock_s)))} {'ahead of' if clock_s > 0 else 'behind'}"


def _why(kit: Kit, error: ssl.SSLError) -> str:
    """Returns why the TLS handshake failed, in words for the people who run the network."""
    there = kit.coordinator
    if not isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{there}: no TLS from the other end ({error.reason or error}); the port is another service's, or a proxy "
            "answers in the coordinator's place; ask the coordinator for the address"
        )
    seen = _seen(kit)
    issued = f"a certificate of {seen.subject_name}, issued by {seen.issuer_name}" if seen else "a certificate"
    if (ended := _authority_until(kit)) <= datetime.now(UTC):
        return (
            f"{there}: the authority in this site's kit ended on {ended:%Y-%m-%d} by this clock; ask the "
            "coordinator for a new kit (fedgtv-coordinator renew --authority), unless the clock is wrong"
        )
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        span = f", valid from {seen.start:%Y-%m-%d} to {seen.end:%Y-%m-%d}" if seen else ""
        return (
            f"{there}: {issued}{span}: {error.verify_message}; this clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; "
            "if the clock is right, the coordinator runs `fedgtv-coordinator renew`"
        )
    if "mismatch" in error.verify_message:
        return f"{there}: {issued}, which is not for this name; ask the coordinator for the right address, or a new kit"
    return (
        f"{there}: {issued}, which is not the coordinator's authority; either a proxy on the way opens TLS (ask IT to "
        f"exempt {there} from TLS inspection), or this kit is of another federation; nothing was sent"
    )


@dataclass(frozen=True)
class _Seen:
    subject_name: str
    issuer_name: str
    start: datetime
    end: datetime


def _seen(kit: Kit) -> _Seen | None:
    """What the certificate at the other end says of itself; it is only looked at, and nothing is sent through it."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    seen: list[x509.Certificate] = []

    def look(name: str, info: dict[str, Any]) -> None:
        if name.endswith(".start_tls.complete"):
            seen.append(_certificate(info["return_value"]))
            info["return_value"].close()
            raise httpx.TransportError("seen, and left")

    try:
        with _client(trusting) as client:
            client.request("HEAD", _url(kit), extensions={"trace": look})
    except httpx.TransportError:
        pass
    return _Seen(*_names(seen[0]), seen[0].not_valid_before_utc, seen[0].not_valid_after_utc) if seen else None


def _names(certificate: x509.Certificate) -> tuple[str, str]:
    def name(of: x509.Name) -> str:
        told = of.get_attributes_for_oid(NameOID.COMMON_NAME) or list(of)
        return repr(str(told[0].value)) if told else "nobody"

    return name(certificate.subject), name(certificate.issuer)


def _certificate(stream: Any) -> x509.Certificate:
    """The certificate that the other end of an encrypted stream of httpcore has shown."""
    return x509.load_der_x509_certificate(stream.get_extra_info("ssl_object").getpeercert(True))


def _client(trusted: ssl.SSLContext) -> httpx.Client:
    """One that calls loopback past a proxy, as the node does."""
    return httpx.Client(verify=trusted, timeout=TIMEOUT_S, mounts=dict.fromkeys(LOOPBACK))


def _unreached(kit: Kit, error: httpx.TransportError) -> str:
    way = f" through the proxy {proxy}" if (proxy := _proxy()) else ""
    right = "are HTTPS_PROXY and the address right" if proxy else "is the address right"
    return (
        f"no answer from {kit.coordinator}{way} ({str(error) or type(error).__name__}); {right}, is the "
        "way open for outgoing HTTPS, is the coordinator up?"
    )


def _proxy() -> str | None:
    """The proxy that the environment names for HTTPS, without its password."""
    found = urlsplit(_proxy_url())
    return found.netloc.rpartition("@")[2] or None


def _check_proxy() -> None:
    scheme = urlsplit(_proxy_url()).scheme
    if scheme not in ("", "http", "https"):
        raise ConfigError(
            f"HTTPS_PROXY: names a {scheme} proxy; expected an HTTP proxy, such as http://proxy.hospital.example:3128"
        )


def _proxy_url() -> str:
    """As httpx takes it from the environment: HTTPS_PROXY or ALL_PROXY, which may leave out http://; empty for none."""
    told = getproxies()
    url = told.get("https") or told.get("all") or ""
    return url if not url or "://" in url else f"http://{url}"


def _trust(kit: Kit) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=kit.authority)
    return context


def _authority_until(kit: Kit) -> datetime:
    return x509.load_pem_x509_certificate(kit.authority.encode("ascii")).not_valid_after_utc


def _url(kit: Kit) -> str:
    return f"https://{kit.coordinator}/"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
