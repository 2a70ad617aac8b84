"""The coordinator's certificate authority, its server certificate, and the record of enrolled sites.

Profiles follow RFC 5280: a P-384 authority that signs servers only (path length 0), and a server certificate whose
subjectAltName lists every name and address that sites connect to. Loopback is always among them: the SuperLink
listens there and the coordinator's own commands call it.
"""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.atomic import OWNERS, create_atomically, write_bytes_atomically, write_text_atomically
from common.enrolment import JoinRequest
from common.errors import InputError, SiteError
from common.settings import Frozen, Name, validate
from server.certificate import AUTHORITY, read_certificate

LOOPBACK = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
"""The longest life of a server certificate that common TLS libraries accept."""
CLOCK_SKEW = timedelta(hours=1)
"""Certificates start this much early: a site's clock may be behind."""


@dataclass(frozen=True)
class Certificates:
    """The files of a coordinator; `authority` alone goes to the sites, the keys have mode 0600."""

    authority: Path
    authority_key: Path
    certificate: Path
    key: Path


def certificate_files(folder: Path) -> Certificates:
    """The four files in `folder`, whether they exist or not."""
    return Certificates(folder / AUTHORITY, folder / "ca.key", folder / "server.crt", folder / "server.key")


def make_certificates(folder: Path, names: Sequence[str], valid_days: int = SERVER_DAYS) -> Certificates:
    """Makes an authority (10 years) and a server certificate for `names` (DNS names and IP addresses).

    Raises:
        InputError: `folder` holds an authority already, or a name is neither a DNS name nor an address.
    """
    files = certificate_files(folder)
    named = alternatives(names)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    _create_key(files.authority_key, _private_bytes(key))
    _write_certificate(files.authority, _authority(key))
    return _issue(files, named, valid_days)


def renew_certificate(folder: Path, names: Sequence[str], valid_days: int = SERVER_DAYS) -> Certificates:
    """Replaces the server's key and certificate under the same authority: the sites need nothing new.

    It lasts no longer than the authority does.

    Raises:
        InputError: `folder` holds no authority that can sign, or a name is none; the old certificate stands.
    """
    return _issue(certificate_files(folder), alternatives(names), valid_days)


def renew_authority(folder: Path) -> Certificates:
    """Gives the authority another 10 years under its old key and name.

    What it has signed stays valid for sites with the old certificate, until that one ends, and for those with the new.

    Raises:
        InputError: `folder` holds no authority, or another's key; the old certificate stands.
    """
    files = certificate_files(folder)
    _, key = _read_authority(files)
    _write_certificate(files.authority, _authority(key))
    return files


def expiry(certificate: Path) -> datetime:
    """When a PEM certificate ceases to be valid, in UTC (InputError: it cannot be read)."""
    return read_certificate(certificate).not_valid_after_utc


def alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    """Returns what a server certificate for `names` holds (InputError: one is neither a DNS name nor an address)."""
    return [_general_name(name) for name in dict.fromkeys([*names, *LOOPBACK])]


class EnrolledSite(Frozen):
    """One line of `sites.json`: who may connect, and which Flower node that is."""

    site: Name
    public_key: str
    fingerprint: str
    node_id: int


def read_sites(path: Path) -> dict[str, EnrolledSite]:
    """Returns the enrolled sites by name; none where the file does not exist yet (ConfigError for a broken one)."""
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["sites"]
        sites = [validate(record, EnrolledSite, str(path)) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no enrolment record; restore it, or remove it and enrol the sites again") from error
    return {site.site: site for site in sites}


def check_new_site(path: Path, request: JoinRequest) -> None:
    """Raises SiteError if the site's name or key is enrolled already."""
    for known in read_sites(path).values():
        if known.site == request.site:
            raise SiteError(
                f"site {known.site!r}: enrolled already with {known.fingerprint}; if that key is lost or no longer"
                " trusted, revoke it first (that is final for the key), otherwise enrol the site under another name"
            )
        if known.fingerprint == request.fingerprint:
            raise SiteError(f"site {request.site!r}: its key belongs to site {known.site!r}; every site makes its own")


def add_site(path: Path, request: JoinRequest, node_id: int) -> EnrolledSite:
    """Records that `request` became Flower node `node_id` (SiteError for a name or key that is taken)."""
    check_new_site(path, request)
    site = EnrolledSite(
        site=request.site, public_key=request.public_key, fingerprint=request.fingerprint, node_id=node_id
    )
    _write_sites(path, read_sites(path) | {site.site: site})
    return site


def find_site(path: Path, site: str) -> EnrolledSite:
    """What the record holds on `site` (SiteError for an unknown one)."""
    sites = read_sites(path)
    if site not in sites:
        raise SiteError(f"site {site!r}: not enrolled; enrolled are {', '.join(sorted(sites)) or 'none'}")
    return sites[site]


def remove_site(path: Path, site: str) -> EnrolledSite:
    """Strikes `site` off the record and returns what stood there (SiteError for an unknown one)."""
    removed = find_site(path, site)
    _write_sites(path, {name: each for name, each in read_sites(path).items() if name != site})
    return removed


def _write_sites(path: Path, sites: dict[str, EnrolledSite]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [sites[name].model_dump(mode="json") for name in sorted(sites)]
    write_text_atomically(path, json.dumps({"sites": records}, indent=2) + "\n")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    if not all(label and label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise InputError(f"{name!r}: neither a host name nor an address; give what sites connect to, without port")
    return x509.DNSName(name)


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedgtv coordinator authority")])
    signing = _usage(signs_certificates=True)
    until = datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS)
    builder = _builder(name, name, key.public_key(), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(signing, critical=True).sign(key, hashes.SHA384())


def _read_authority(files: Certificates) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    for path in (files.authority, files.authority_key):
        if not path.exists():
            raise InputError(f"{path}: missing; restore it, or make a new authority with fedgtv-coordinator init")
    authority = read_certificate(files.authority)
    try:
        key = serialization.load_pem_private_key(files.authority_key.read_bytes(), password=None)
    except (OSError, TypeError, ValueError) as error:
        told = f"{files.authority_key}: cannot be read, or is encrypted"
        raise InputError(f"{told}; restore it and {AUTHORITY} from the same backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        raise InputError(f"{files.authority_key}: not the key of {files.authority}; restore both from the same backup")
    return authority, key


def _issue(files: Certificates, names: list[x509.GeneralName], valid_days: int) -> Certificates:
    authority, authority_key = _read_authority(files)
    if authority.not_valid_after_utc <= datetime.now(UTC):
        raise InputError(
            f"{files.authority}: expired on {authority.not_valid_after_utc:%Y-%m-%d}, and nothing that it signs is "
            "valid; renew it with fedgtv-coordinator renew --authority, and send the sites their new kits"
        )
    until = min(datetime.now(UTC) + timedelta(days=valid_days), authority.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedgtv coordinator")])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = _builder(name, authority.subject, key.public_key(), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(issuer, critical=False)
    write_bytes_atomically(files.key, _private_bytes(key), OWNERS)
    _write_certificate(files.certificate, builder.sign(authority_key, hashes.SHA384()))
    return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - CLOCK_SKEW).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create_key(path: Path, data: bytes) -> None:
    try:
        create_atomically(path, data, OWNERS)
    except FileExistsError as error:
        raise InputError(f"{path}: exists and is never overwritten; use another folder, or move it away") from error


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_bytes_atomically(path, certificate.public_bytes(serialization.Encoding.PEM))
