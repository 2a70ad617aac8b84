"""A coordinator's certificates as they lie on its disk: a fault is told by file and remedy."""

from pathlib import Path

from cryptography import x509

from common.errors import InputError
from common.pem import certificates_in

AUTHORITY = "ca.crt"


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Returns the certificates of a PEM file, at least one.

    Raises:
        InputError: the file is missing or cannot be read, holds none, or a damaged one.
    """
    try:
        return certificates_in(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy(path)}") from error
    except ValueError as error:
        raise InputError(f"{path}: no certificate in PEM; {remedy(path)}") from error


def read_certificate(path: Path) -> x509.Certificate:
    """Returns the first certificate of a PEM file, which is the one that is served or signs."""
    return read_certificates(path)[0]


def remedy(path: Path) -> str:
    """Returns what to do about a certificate or key that cannot be used."""
    if path.name == AUTHORITY:
        return "restore it from a backup: with another authority, every site must be enrolled anew"
    return "run `fedgtv-coordinator renew`, which makes server.crt and server.key anew"
