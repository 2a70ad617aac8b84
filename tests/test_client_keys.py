import base64
import hashlib
import json
import shutil
import stat
import subprocess

import pytest

from client.keys import check_key, make_key
from common.enrolment import JoinRequest, fingerprint, read_join_request
from common.errors import ConfigError, InputError, SiteError


def test_key_is_private_to_its_owner_and_its_public_half_is_in_the_request(tmp_path):
    files = make_key("A", tmp_path / "keys")
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.private.parent.stat().st_mode) == 0o700
    assert files.private.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    request = read_join_request(files.request)
    assert request == JoinRequest(site="A", public_key=files.public.read_text().strip())
    assert check_key(files.private) == request.public_key
    assert "PRIVATE" not in files.request.read_text()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen as the oracle")
def test_ssh_keygen_reads_the_pair_and_prints_the_same_fingerprint(tmp_path):
    files = make_key("A", tmp_path)
    listed = subprocess.run(["ssh-keygen", "-lf", files.public], capture_output=True, text=True, check=True).stdout
    assert listed.split()[:2] == ["384", read_join_request(files.request).fingerprint]
    derived = subprocess.run(["ssh-keygen", "-yf", files.private], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == files.public.read_text().split()


def test_fingerprint_is_the_digest_of_the_decoded_key():
    kind = b"ecdsa-sha2-nistp384"
    raw = len(kind).to_bytes(4, "big") + kind + b"rest"
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    assert fingerprint(f"ecdsa-sha2-nistp384 {base64.b64encode(raw).decode()}") == f"SHA256:{digest}"


def test_two_sites_get_different_keys(tmp_path):
    first, second = make_key("A", tmp_path / "a"), make_key("A", tmp_path / "b")
    assert first.public.read_text() != second.public.read_text()


def test_a_key_is_never_overwritten(tmp_path):
    files = make_key("A", tmp_path)
    before = files.private.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        make_key("A", tmp_path)
    assert files.private.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../A", "A B", 'A"'])
def test_a_site_name_that_is_none_makes_no_key(tmp_path, name):
    with pytest.raises(ConfigError, match="site"):
        make_key(name, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_an_open_or_foreign_or_missing_key_is_refused(tmp_path):
    files = make_key("A", tmp_path)
    files.private.chmod(0o640)
    with pytest.raises(InputError, match="mode 0640"):
        check_key(files.private)
    with pytest.raises(InputError, match="no site key"):
        check_key(files.public)
    with pytest.raises(InputError, match="no site key"):
        check_key(tmp_path / "absent")


def test_a_request_whose_key_was_swapped_is_refused(tmp_path):
    mine, other = make_key("A", tmp_path / "a"), make_key("A", tmp_path / "b")
    record = json.loads(mine.request.read_text())
    record["public_key"] = other.public.read_text().strip()
    mine.request.write_text(json.dumps(record))
    with pytest.raises(SiteError, match="states fingerprint"):
        read_join_request(mine.request)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"site": "A", "public_key": "ssh-ed25519 AAAA"}'])
def test_a_file_that_is_no_request_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "A.join.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_join_request(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
