"""Whether the federation's certificate can be served: told before Flower and nginx tell it in words of their own."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.errors import InputError
from server.certificate import read_certificate, remedy
from server.provision import Certificates, alternatives


def check_served(files: Certificates, names: Sequence[str]) -> None:
    """Returns if the server certificate and its key can be served to sites that call one of `names`.

    Raises:
        InputError: a file is missing or damaged, they do not belong together, or another authority signed them; the
            certificate is an authority's, not valid now, or not for one of `names` or for loopback.
    """
    for path in (files.authority, files.certificate, files.key):
        if not path.is_file():
            raise InputError(f"{path}: missing; {remedy(path)}")
    authority, served = read_certificate(files.authority), read_certificate(files.certificate)
    _check_key(files)
    _check_issuer(files, served, authority)
    fault = _kind(served) or _validity(served) or _names(served, names)
    if fault:
        raise InputError(f"{files.certificate}: {fault}; {remedy(files.certificate)}")


def _check_key(files: Certificates) -> None:
    try:  # with a password, if a wrong one, OpenSSL does not ask the terminal for that of an encrypted key
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        told = f"{files.certificate}: does not fit {files.key.name}, or that is damaged or encrypted"
        raise InputError(f"{told}; {remedy(files.certificate)}") from error
    except OSError as error:
        raise InputError(f"{files.key}: cannot be read ({error.strerror}); {remedy(files.key)}") from error


def _check_issuer(files: Certificates, served: x509.Certificate, authority: x509.Certificate) -> None:
    try:
        served.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        told = f"{files.authority}: another authority than the one that signed {files.certificate.name}"
        raise InputError(f"{told}; {remedy(files.authority)}") from error


def _kind(served: x509.Certificate) -> str | None:
    signs = any(isinstance(each.value, x509.BasicConstraints) and each.value.ca for each in served.extensions)
    return "an authority's certificate, expected a server's" if signs else None


def _validity(served: x509.Certificate) -> str | None:
    start, end, now = served.not_valid_before_utc, served.not_valid_after_utc, datetime.now(UTC)
    if start <= now < end:
        return None
    return f"valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC here"


def _names(served: x509.Certificate, names: Sequence[str]) -> str | None:
    named = {
        _text(name)
        for extension in served.extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value
    }
    lacking = [name for each in alternatives(names) if (name := _text(each)) not in named]
    return f"not for {', '.join(lacking)}; expected all names of federation.yaml, and loopback" if lacking else None


def _text(name: x509.GeneralName) -> str:
    return str(name.value).lower()
