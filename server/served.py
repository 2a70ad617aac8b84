"""Whether the federation's certificate can be served: told before Flower and nginx tell it in words of their own."""

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.errors import InputError
from server.provision import Certificates


def check_served(files: Certificates) -> None:
    """Returns if the server certificate and its key can be served.

    Raises:
        InputError: one is missing or damaged, they do not belong together, or another authority signed them.
    """
    for path in (files.authority, files.certificate, files.key):
        if not path.is_file():
            raise InputError(f"{path}: missing; {_remedy(path, files)}")
    try:
        ssl.create_default_context(cafile=str(files.authority))
    except ssl.SSLError as error:
        raise InputError(f"{files.authority}: no certificate in PEM; {_remedy(files.authority, files)}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        remedy = _remedy(files.certificate, files)
        raise InputError(f"{files.certificate}: no certificate that fits {files.key.name}; {remedy}") from error
    _check_issuer(files)


def _check_issuer(files: Certificates) -> None:
    served, authority = (
        x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.certificate, files.authority)
    )
    try:
        served.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        told = f"{files.authority}: another authority than the one that signed {files.certificate.name}"
        raise InputError(f"{told}; {_remedy(files.authority, files)}") from error


def _remedy(path: Path, files: Certificates) -> str:
    if path == files.authority:
        return "restore it from a backup: with another authority, every site must be enrolled anew"
    return "run `fedgtv-coordinator renew`, which makes both anew"
