"""Which code may run: the release's own and what was approved, by all its bytes; differences; signatures by openssl."""

import base64
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client import approval
from client.approval import MAX_ASIDE, Approvals, changes, signer
from client.archive import read_bundle
from client.audit import AuditLog
from client.cli import main
from common.errors import ApprovalError, ConfigError, InputError


def digest(data: bytes) -> str:
    return read_bundle(data).sha256


@pytest.fixture
def ours(pack_bundle, monkeypatch):
    """The bundle that stands for this release's own."""
    data = pack_bundle(client__app=b"app = 1\nkeep = 2\n", client__old=b"old\n")
    monkeypatch.setattr(approval, "build_bundle", lambda: data)
    return data


@pytest.fixture
def other(pack_bundle):
    return pack_bundle(client__app=b"app = 5\nkeep = 2\n", client__new=b"new\x1b[2J\n")


@pytest.fixture
def approvals(tmp_path):
    return Approvals(tmp_path / "state")


def test_exactly_the_release_s_own_bytes_may_run(approvals, ours, own_bundle):
    bundle, why = approvals.check(own_bundle, digest(own_bundle), digest(own_bundle))
    assert (bundle.name, why) == ("fedgtv", "this release's own")
    assert approvals.waiting() == ()
    with pytest.raises(ApprovalError) as refused:
        approvals.check(ours, digest(ours), digest(own_bundle))
    assert refused.value.code == "unapproved-code"


def test_an_unapproved_bundle_is_kept_aside_and_runs_once_it_is_approved(approvals, ours, other):
    with pytest.raises(
        ApprovalError, match=f"to see and allow it: fedgtv-site approve {digest(other)[:12]}$"
    ) as refused:
        approvals.check(other, digest(other), digest(ours))
    assert refused.value.code == "unapproved-code"
    (path,) = approvals.waiting()
    assert path.read_bytes() == other
    assert path.stat().st_mode & 0o077 == 0
    line = approvals.approve(approvals.find(digest(other)[:12]))
    assert (line.name, line.version) == ("other", "9")
    assert approvals.waiting() == ()
    assert approvals.check(other, digest(other), digest(ours))[1].startswith("approved 20")
    assert approvals.last_approved()[1].sha256 == digest(other)


def test_a_tampered_bundle_is_neither_run_nor_kept(approvals, ours, other):
    approvals.approve(other)
    for place in range(0, len(other), 97):
        bad = bytearray(other)
        bad[place] ^= 1
        with pytest.raises(ApprovalError, match="changed on its way") as refused:
            approvals.check(bytes(bad), digest(other), digest(ours))
        assert refused.value.code == "tampered-code"
    assert approvals.waiting() == ()


def test_a_hash_that_begins_alike_is_another_hash(approvals, ours, other):
    """Flower installs bundles under 8 digits; here all 64 count."""
    approvals.approve(other)
    alike = digest(other)[:63] + ("0" if digest(other)[63] != "0" else "1")
    with pytest.raises(ApprovalError):
        approvals.check(other, alike, digest(ours))


def test_a_hostile_bundle_is_not_kept(approvals, ours, other):
    bad = other + b"behind"
    with pytest.raises(ApprovalError) as refused:
        approvals.check(bad, __import__("hashlib").sha256(bad).hexdigest(), digest(ours))
    assert refused.value.code == "hostile-code"
    assert approvals.waiting() == ()
    with pytest.raises(ApprovalError):
        approvals.approve(bad)


def test_a_flood_of_bundles_does_not_fill_the_disk(approvals, ours, pack_bundle):
    for number in range(MAX_ASIDE + 5):
        data = pack_bundle(client__app=f"app = {number}\n".encode() * 3)
        with pytest.raises(ApprovalError):
            approvals.check(data, digest(data), digest(ours))
    assert len(approvals.waiting()) == MAX_ASIDE
    assert digest(data) in {path.stem for path in approvals.waiting()}


def test_a_bundle_is_named_by_enough_digits_or_a_file(approvals, ours, other, tmp_path):
    with pytest.raises(InputError, match="waiting: none"):
        approvals.find("12345678")
    with pytest.raises(ApprovalError):
        approvals.check(other, digest(other), digest(ours))
    with pytest.raises(InputError, match="at least 8 digits"):
        approvals.find(digest(other)[:7])
    (tmp_path / "mailed.fab").write_bytes(other)
    assert approvals.find(str(tmp_path / "mailed.fab")) == approvals.find(digest(other)[:8].upper()) == other


def test_damaged_approvals_approve_nothing(approvals, ours, other, tmp_path):
    approvals.approve(other)
    for text in ("{", "[1]", '[{"sha256": "x"}]'):
        (tmp_path / "state" / "approved.json").write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            approvals.check(other, digest(other), digest(ours))


def test_differences_file_by_file(ours, other):
    found = changes(read_bundle(ours), read_bundle(other))
    assert [(change.kind, change.name) for change in found] == [
        ("changed", "client/app.py"), ("added", "client/new.py"), ("removed", "client/old.py")
    ]  # fmt: skip
    assert found[0].text.splitlines()[2:] == ["@@ -1,2 +1,2 @@", "-app = 1", "+app = 5", " keep = 2"]
    assert r"+new\x1b[2J" in found[1].text
    assert "\x1b" not in found[1].text
    assert changes(read_bundle(ours), read_bundle(ours)) == ()


def test_text_that_hides_itself_is_shown(pack_bundle):
    """Right-to-left marks and carriage returns would show a reader other code than Python runs."""
    sly = pack_bundle(client__app="a = 1  # \u202e evil \u2066\rb = 2\n\u200b".encode())
    (change, *_) = changes(read_bundle(pack_bundle(client__app=b"")), read_bundle(sly))
    assert all(each.isprintable() for each in change.text.split("\n"))
    assert r"\u202e" in change.text
    assert r"\r" in change.text


def test_a_file_without_its_last_end_of_line_differs_from_one_with_it(pack_bundle):
    (change,) = changes(*(read_bundle(pack_bundle(client__app=text)) for text in (b"a\nb\n", b"a\nb")))
    assert change.text.splitlines()[2:] == ["@@ -1,2 +1,3 @@", " a", " b", r"+\ no newline at the end"]


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


def ssh_line(key) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def pem(key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_signature_counts_for_a_trusted_key_over_these_bytes_alone(key, other, ours):
    good, stranger = key.sign(other), Ed25519PrivateKey.generate()
    for trusted in ([ssh_line(key)], [pem(key)], [ssh_line(stranger), pem(key)], [ssh_line(key) + " a comment"]):
        assert signer(other, good, trusted).startswith("SHA256:")
        assert signer(other, base64.b64encode(good) + b"\n", trusted).startswith("SHA256:")
    for data, signature, trusted in [(ours, good, [pem(key)]), (other, good, [pem(stranger)]),
                                     (other, good[:-1] + bytes([good[-1] ^ 1]), [pem(key)]), (other, b"", [pem(key)]),
                                     (other, b"\xff" * 64, [pem(key)]),
                                     (other, "ü".encode() * 90, [pem(key)])]:  # fmt: skip
        with pytest.raises(ApprovalError, match="of none of"):
            signer(data, signature, trusted)
    with pytest.raises(ConfigError, match="none in site"):
        signer(other, good, [])
    for no_key in ("ssh-rsa AAAA", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "", "ecdsa"):
        with pytest.raises(ConfigError, match="trusted_keys"):
            signer(other, good, [no_key])


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(key, other, tmp_path):
    (tmp_path / "key.pub").write_text(ssh_line(key) + "\n")
    told = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True
    ).stdout
    assert signer(other, key.sign(other), [pem(key)]) == told.split()[1]


@pytest.fixture
def site(tmp_path, ours, other, key):
    """A site's folder with a waiting bundle and a trusted key."""
    config = tmp_path / "site.yaml"
    config.write_text(f"site: A\ntrusted_keys: ['{ssh_line(key)}']\n")
    with pytest.raises(ApprovalError):
        Approvals(tmp_path / "state").check(other, digest(other), digest(ours))
    return config


def test_approve_lists_shows_checks_and_asks(site, other, key, command, monkeypatch, tmp_path):
    listed = command(main, "approve", "--config", site)
    assert f"waiting:   {digest(other)[:12]}  other 9, 3 files" in listed.out
    monkeypatch.setattr("typer.confirm", lambda question: False)
    shown = command(main, "approve", digest(other)[:12], "--config", site)
    assert f"hash:        {digest(other)}" in shown.out
    assert "client/new.py  (added)" in shown.out
    assert "compared with this release's own: 3 files differ" in shown.out
    assert "-app = 1\n+app = 5" in shown.out
    assert "not approved" in shown.out
    assert Approvals(tmp_path / "state").approved() == ()
    (tmp_path / "sig").write_bytes(key.sign(other))
    (tmp_path / "bad").write_bytes(key.sign(other + b"x"))
    bad = command(main, "approve", digest(other)[:12], "--config", site, "--signature", tmp_path / "bad", "--yes")
    assert (bad.code, Approvals(tmp_path / "state").approved()) == (2, ())
    good = command(main, "approve", digest(other)[:12], "--config", site, "--signature", tmp_path / "sig", "--yes")
    assert "signature:   good, by trusted key SHA256:" in good.out
    assert "approved: other 9" in good.out
    (line,) = AuditLog(tmp_path / "state").read().records
    assert (line["event"], line["sha256"]) == ("approval", digest(other))
    assert "nothing waits" in command(main, "approve", "--config", site).out


def test_without_an_audit_line_nothing_is_approved(site, other, command, tmp_path):
    AuditLog(tmp_path / "state").append("task", run="1")
    path = tmp_path / "state" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"run":"1"', b'"run":"2"'))
    ended = command(main, "approve", digest(other)[:12], "--config", site, "--yes")
    assert (ended.code, Approvals(tmp_path / "state").approved()) == (1, ())
