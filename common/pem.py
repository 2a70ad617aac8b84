"""Certificates in PEM: every fault is a ValueError, and what is written holds nothing but certificates."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def certificates_in(pem: bytes) -> list[x509.Certificate]:
    """Returns the certificates in `pem`, whatever stands between them.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error


def pem_of(certificates: Iterable[x509.Certificate]) -> str:
    """Returns the certificates alone: a key that stood beside them in a file is not written out with them."""
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)
