import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from client.keys import make_key
from common.enrolment import read_join_request
from common.errors import InputError, SiteError
from server import provision
from server.provision import (
    add_site,
    certificate_files,
    check_new_site,
    expiry,
    make_certificates,
    read_sites,
    remove_site,
    renew_authority,
    renew_certificate,
)


def handshake(files, authority, name):
    """Name of the certificate that a TLS client accepts, on a socket pair: no port, no network."""
    server, client = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def serve():
        try:
            context.wrap_socket(server, server_side=True).close()
        except (ssl.SSLError, OSError):
            server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ssl.create_default_context(cafile=str(authority)).wrap_socket(client, server_hostname=name) as secure:
            return secure.getpeercert()["subject"][0][0][1]
    finally:
        client.close()
        thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("pki"), ["gtv.example.org", "192.0.2.7"])


@pytest.mark.parametrize("name", ["gtv.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"])
def test_openssl_accepts_every_name_given_and_loopback(files, name):
    assert handshake(files, files.authority, name) == "fedgtv coordinator"


def test_openssl_refuses_another_name_and_another_authority(files, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(files, files.authority, "other.example.org")
    other = make_certificates(tmp_path / "other", ["gtv.example.org"])
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(files, other.authority, "gtv.example.org")


def test_profile_is_p384_server_only_and_the_authority_signs_no_further_authority(files):
    server = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    server.verify_directly_issued_by(authority)
    for certificate in (server, authority):
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert certificate.public_key().curve.name == "secp384r1"
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]


def test_keys_are_private_and_validity_is_as_asked(tmp_path):
    files = make_certificates(tmp_path / "pki", ["localhost"], valid_days=30)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.authority_key.stat().st_mode) == 0o600
    assert abs(expiry(files.certificate) - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)


def test_an_authority_is_never_overwritten_but_its_server_certificate_is_renewed(files):
    before, old = files.authority.read_bytes(), files.certificate.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        make_certificates(files.authority.parent, ["localhost"])
    renewed = renew_certificate(files.authority.parent, ["gtv.example.org", "192.0.2.7"])
    assert renewed == certificate_files(files.authority.parent)
    assert files.authority.read_bytes() == before
    assert files.certificate.read_bytes() != old
    assert handshake(files, files.authority, "192.0.2.7") == "fedgtv coordinator"


def test_a_renewed_certificate_lasts_no_longer_than_its_authority(tmp_path, monkeypatch):
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", 30)
    files = make_certificates(tmp_path / "pki", ["localhost"], valid_days=10)
    assert expiry(files.certificate) < expiry(files.authority)
    renew_certificate(tmp_path / "pki", ["localhost"])
    assert expiry(files.certificate) == expiry(files.authority)


def damaged(files):
    files.authority.write_text("no certificate")


def swapped(files):
    other = make_certificates(files.authority.parent / "other", ["localhost"])
    other.authority_key.replace(files.authority_key)


def expired(files):
    with pytest.MonkeyPatch.context() as past:
        past.setattr(provision, "AUTHORITY_DAYS", -0.01)
        made = provision._authority(load_pem_private_key(files.authority_key.read_bytes(), None))
    files.authority.write_bytes(made.public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: files.authority_key.unlink(), r"ca\.key: missing; restore it"),
        (damaged, r"ca\.crt: no certificate in PEM; restore it from a backup"),
        (lambda files: files.authority_key.write_text("no key"), r"ca\.key: cannot be read, .*from the same backup"),
        (swapped, r"ca\.key: not the key of .*ca\.crt; restore both"),
        (expired, r"ca\.crt: expired on 20\d\d-\d\d-\d\d, .*renew --authority"),
    ],
)
def test_an_authority_that_cannot_sign_renews_nothing(tmp_path, spoil, message):
    files = make_certificates(tmp_path / "pki", ["localhost"])
    old = files.certificate.read_bytes(), files.key.read_bytes()
    spoil(files)
    with pytest.raises(InputError, match=message) as caught:
        renew_certificate(tmp_path / "pki", ["localhost"])
    assert "\n" not in str(caught.value)
    assert (files.certificate.read_bytes(), files.key.read_bytes()) == old


def test_a_renewed_authority_is_trusted_beside_the_old_one(tmp_path, monkeypatch):
    """Sites with the old kit and sites with the new one accept the old server certificate and the new one."""
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", 30)
    files = make_certificates(tmp_path / "pki", ["gtv.example.org"])
    old, before = tmp_path / "old.crt", expiry(files.authority)
    old.write_bytes(files.authority.read_bytes())
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", 3650)
    renew_authority(tmp_path / "pki")
    assert expiry(files.authority) - before > timedelta(days=3600)
    for _ in range(2):
        for authority in (old, files.authority):
            assert handshake(files, authority, "gtv.example.org") == "fedgtv coordinator"
        renew_certificate(tmp_path / "pki", ["gtv.example.org"])
    assert old.read_bytes() != files.authority.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"no certificate", bytes(range(256))])
@pytest.mark.parametrize(("name", "remedy"), [("authority", "restore it from a backup"), ("certificate", "renew")])
def test_the_end_of_what_cannot_be_read_is_one_line_with_its_remedy(files, tmp_path, name, remedy, content):
    path = tmp_path / getattr(files, name).name
    if content is not None:
        path.write_bytes(content)
    told = "cannot be read" if content is None else "no certificate in PEM"
    with pytest.raises(InputError, match=remedy) as caught:
        expiry(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_an_expired_authority_is_renewed_and_signs_again(tmp_path):
    files = make_certificates(tmp_path / "pki", ["localhost"])
    expired(files)
    renew_authority(tmp_path / "pki")
    renew_certificate(tmp_path / "pki", ["localhost"])
    assert handshake(files, files.authority, "localhost") == "fedgtv coordinator"
    swapped(files)
    with pytest.raises(InputError, match="not the key of"):
        renew_authority(tmp_path / "pki")


@pytest.mark.parametrize("name", ["", "https://gtv.example.org", "gtv.example.org:443", "a..b", "a b"])
def test_a_name_that_is_none_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(InputError, match="neither a host name nor an address"):
        make_certificates(tmp_path / "pki", [name])
    assert not (tmp_path / "pki").exists()
    with pytest.raises(InputError, match=r"ca\.crt: missing; restore it"):
        renew_certificate(tmp_path / "pki", ["localhost"])


def test_sites_are_recorded_with_their_node_and_struck_off(tmp_path):
    path = tmp_path / "coordinator" / "sites.json"
    requests = {site: read_join_request(make_key(site, tmp_path / site).request) for site in "AB"}
    assert read_sites(path) == {}
    big = 2**64 - 1  # Flower's node ids are unsigned 64-bit integers
    for site, node_id in (("B", big), ("A", 7)):
        add_site(path, requests[site], node_id)
    sites = read_sites(path)
    assert {site: each.node_id for site, each in sites.items()} == {"A": 7, "B": big}
    assert sites["A"].fingerprint == requests["A"].fingerprint
    assert remove_site(path, "A").node_id == 7
    assert set(read_sites(path)) == {"B"}
    with pytest.raises(SiteError, match="'A': not enrolled; enrolled are B"):
        remove_site(path, "A")


def test_a_name_or_key_twice_is_refused(tmp_path):
    path = tmp_path / "sites.json"
    mine, other = (read_join_request(make_key("A", tmp_path / folder).request) for folder in ("a", "b"))
    add_site(path, mine, 1)
    with pytest.raises(SiteError, match="revoke it first"):
        check_new_site(path, other)
    with pytest.raises(SiteError, match="its key belongs to site 'A'"):
        add_site(path, mine.model_copy(update={"site": "B"}), 2)
    assert set(read_sites(path)) == {"A"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sites": [{"site": "A"}]}'])
def test_a_broken_record_is_an_error_in_one_line_not_an_empty_federation(tmp_path, text):
    path = tmp_path / "sites.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_sites(path)
    assert "\n" not in str(caught.value)
