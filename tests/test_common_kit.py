"""The kit of an enrolled site: there and back, and what is no kit."""

import json
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.kit import Kit, read_kit, write_kit


@pytest.fixture
def kit(authority_pem: str) -> Kit:
    return Kit(site="A", coordinator="coordinator.example.org:8443", authority=authority_pem)


def test_there_and_back(tmp_path: Path, kit: Kit) -> None:
    path = tmp_path / "A.kit.json"
    write_kit(kit, path)
    assert read_kit(path) == kit
    assert set(json.loads(path.read_text())) == {"site", "coordinator", "authority"}


def test_a_key_beside_the_certificate_is_not_kept(tmp_path: Path, kit: Kit, authority_pem: str) -> None:
    path = tmp_path / "A.kit.json"
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    path.write_text(json.dumps(kit.model_dump() | {"authority": key + authority_pem + key}))
    assert read_kit(path) == kit


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.7:8443", "[::1]:8443"])
def test_addresses(address: str, authority_pem: str) -> None:
    assert Kit(site="A", coordinator=address, authority=authority_pem).coordinator == address


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":8443", "host:x", "host:0", "host:65536", "a b:1", "http://host:1"]
)
def test_what_is_no_address_is_told_with_the_form_that_is_expected(tmp_path: Path, address: str, kit: Kit) -> None:
    path = tmp_path / "A.kit.json"
    path.write_text(json.dumps(kit.model_dump() | {"coordinator": address}))
    with pytest.raises(ConfigError, match=r"A\.kit\.json: coordinator: expected host:port with a port") as error:
        read_kit(path)
    assert str(error.value).endswith(f"(given: {address!r})")


@pytest.mark.parametrize("content", [None, b"", b"not json", b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "A.kit.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"A\.kit\.json: cannot be read as a kit; give the SITE\.kit\.json"):
        read_kit(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"authority": "no certificate"}, "authority: expected certificates in PEM"),
        ({"authority": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}, "damaged on its way"),
        ({"site": "../A"}, "site"),
        ({"private_key": "x"}, "unknown key 'private_key'"),
    ],
)
def test_a_kit_at_fault_is_told_in_one_line(tmp_path: Path, change: dict[str, str], words: str, kit: Kit) -> None:
    path = tmp_path / "A.kit.json"
    path.write_text(json.dumps(kit.model_dump() | change))
    with pytest.raises(ConfigError) as caught:
        read_kit(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"site": "A"}', '{"site": "A", "public_key": "k", "fingerprint": "f"}'])
def test_other_json_is_no_kit(tmp_path: Path, text: str) -> None:
    path = tmp_path / "A.kit.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is no kit; give the SITE\.kit\.json that `enrol` wrote"):
        read_kit(path)
