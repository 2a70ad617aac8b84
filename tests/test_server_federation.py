"""A coordinator's folder: made once, opened again, and what its sites' states are."""

import json

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from client.keys import make_key
from common.enrolment import read_join_request
from common.errors import ConfigError
from common.kit import read_kit
from server.federation import Federation, FederationConfig, check_run_name
from server.provision import add_site
from server.wanted import forget, want


@given(st.integers(1, 65535))
def test_address_parts(port):
    config = FederationConfig(address=f"coordinator.example.org:{port}")
    assert (config.host, config.port) == ("coordinator.example.org", port)


def test_certificate_names_the_host_and_loopback(tmp_path):
    federation = Federation.create(tmp_path / "fed", "example.org:8443")
    certificate = x509.load_pem_x509_certificate(federation.certificates.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.org", "localhost"]
    assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


def test_certificate_of_an_ipv6_address_names_it(tmp_path):
    federation = Federation.create(tmp_path / "fed", "[2001:db8::1]:8443")
    certificate = x509.load_pem_x509_certificate(federation.certificates.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "2001:db8::1" in map(str, names.get_values_for_type(x509.IPAddress))
    assert federation.config.port == 8443


def test_renewal_is_for_the_address_that_the_configuration_now_has(tmp_path):
    Federation.create(tmp_path / "fed", "example.org:8443")
    (tmp_path / "fed" / "federation.yaml").write_text("address: moved.example.org:8443\n")
    federation = Federation.open(tmp_path / "fed")
    until = federation.renew()
    certificate = x509.load_pem_x509_certificate(federation.certificates.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["moved.example.org", "localhost"]
    assert until == certificate.not_valid_after_utc


def test_open_returns_what_create_made(tmp_path):
    created = Federation.create(tmp_path / "fed", "192.0.2.1:443")
    assert Federation.open(tmp_path / "fed") == created
    assert created.superlink().port == 443
    assert created.superlink().runs_folder == (tmp_path / "fed" / "superlink" / "runs").resolve()


def test_a_lost_kit_is_written_again_for_the_same_key(tmp_path):
    federation = Federation.create(tmp_path / "fed", "example.org:8443")
    request = read_join_request(make_key("A", tmp_path / "keys").request)
    add_site(federation.superlink().sites_file, request, 7)
    before = federation.superlink().sites_file.read_bytes()
    kit = read_kit(federation.enrol(request, tmp_path / "A.kit.json"))  # nothing is up: nothing is asked of it
    assert (kit.site, kit.coordinator) == ("A", "example.org:8443")
    assert federation.superlink().sites_file.read_bytes() == before


def test_create_keeps_an_earlier_federation(tmp_path):
    Federation.create(tmp_path / "fed", "example.org:8443")
    with pytest.raises(ConfigError, match="exists already"):
        Federation.create(tmp_path / "fed", "example.org:8443")


def test_a_federation_without_runs_has_no_progress(tmp_path):
    federation = Federation.create(tmp_path / "fed", "example.org:8443")
    assert federation.progress() == {}
    run = tmp_path / "fed" / "superlink" / "runs" / "r"
    run.mkdir(parents=True)
    (run / "ledger.jsonl").write_text('{"kind": "en')
    assert federation.progress() == {"r": "nothing yet"}


def test_a_broken_line_of_one_run_hides_none_of_the_others(tmp_path):
    federation = Federation.create(tmp_path / "fed", "example.org:8443")
    runs = federation.superlink().runs_folder
    for name, line in (("broken", b"\xff\0{"), ("whole", b'{"kind": "end"}')):
        (runs / name).mkdir(parents=True)
        (runs / name / "ledger.jsonl").write_bytes(b'{"kind": "done"}\n' + line + b"\n")
    broken = f"{runs / 'broken' / 'ledger.jsonl'}, line 2: broken; remove the line and run the experiment again"
    assert federation.progress() == {"broken": broken, "whole": "finished"}


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True))
def test_names_that_become_folders(name):
    assert check_run_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "a" * 64, "a\n"])
def test_names_that_cannot(name):
    with pytest.raises(ConfigError, match="is no name"):
        check_run_name(name)


def test_a_run_that_was_stopped_says_so_and_how_to_go_on(tmp_path):
    """It is not wanted, nobody holds its lock, and its last line is neither its end nor a failure."""
    federation = Federation.create(tmp_path / "federation", "localhost:8443")
    folder = federation.superlink().runs_folder / "first"
    folder.mkdir(parents=True)
    line = {"kind": "step", "step": 1, "what": "train", "model": "m", "time": "2026-11-26T16:00:00+0000"}
    (folder / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    assert federation.progress() == {"first": "stopped; the same `run` goes on with it; last: step 2: train m"}
    want(folder, None)
    assert federation.progress() == {"first": "step 2: train m"}
    forget(folder)
    (folder / "ledger.jsonl").write_text(json.dumps(line | {"kind": "failed", "why": "because"}) + "\n")
    assert federation.progress() == {"first": "failed: because"}
