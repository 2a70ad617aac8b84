"""Certificates in PEM: there and back, alone, and every fault one kind of error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pem import certificates_in, pem_of

KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


def test_certificates_alone_are_written_out_in_their_order(authority_pem: str) -> None:
    mixed = f"a remark\n{KEY}{authority_pem}{KEY}{authority_pem}"
    assert pem_of(certificates_in(mixed.encode())) == authority_pem + authority_pem


@pytest.mark.parametrize("pem", ["", "garbage", KEY, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_what_holds_no_certificate(pem: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the library's
        certificates_in(pem.encode())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the library's
        certificates_in(data)
