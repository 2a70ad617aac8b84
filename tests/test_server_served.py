"""Certificates that cannot be served are told by file and remedy, before anything is started."""

import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from common.errors import InputError
from server.provision import certificate_files, make_certificates, renew_certificate
from server.served import check_served

NAMES = ["gtv.example.org", "192.0.2.7"]
CHECK = """
import sys
from pathlib import Path
from common.errors import InputError
from server.provision import certificate_files
from server.served import check_served
try:
    check_served(certificate_files(Path(sys.argv[1])), ["gtv.example.org"])
except InputError as error:
    print(error)
"""


@pytest.fixture
def files(tmp_path):
    return make_certificates(tmp_path, NAMES)


def test_made_and_renewed_certificates_can_be_served(files, tmp_path):
    check_served(files, NAMES)
    renew_certificate(tmp_path, NAMES)
    check_served(certificate_files(tmp_path), NAMES)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("certificate", "fedgtv-coordinator renew"), ("key", "fedgtv-coordinator renew"), ("authority", "from a backup")],
)
@pytest.mark.parametrize("damage", ["missing", "cut", "another's"])
def test_what_cannot_be_served_is_named_with_its_remedy(files, tmp_path, name, remedy, damage):
    path = getattr(files, name)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:90])
    else:
        other = make_certificates(tmp_path / "other", NAMES)
        path.write_bytes(getattr(other, name).read_bytes())
    with pytest.raises(InputError, match=remedy) as caught:
        check_served(files, NAMES)
    assert str(path if name == "authority" or damage == "missing" else files.certificate) in str(caught.value)


def encrypt(path):
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(files, tmp_path):
    """On a terminal of its own, where OpenSSL would ask and wait."""
    encrypt(files.key)
    ours, theirs = os.openpty()
    try:
        command = ["setsid", "--ctty", sys.executable, "-c", CHECK, str(tmp_path)]
        done = subprocess.run(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, timeout=30, check=True)
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 100)
    finally:
        os.close(ours)
        os.close(theirs)
    told = done.stdout.decode()
    assert told.startswith(f"{files.certificate}: does not fit server.key, or that is damaged or encrypted; run `fed")


@pytest.mark.parametrize("name", ["authority", "certificate", "key"])
def test_a_file_that_the_system_cannot_read_is_named(files, name):
    path = getattr(files, name)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a regular file that gives an input/output error, to root too
    with pytest.raises(InputError, match="cannot be read \\(Input/output error\\)") as caught:
        check_served(files, NAMES)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_expired_certificate_is_refused_and_one_near_its_end_is_not(files, tmp_path):
    renew_certificate(tmp_path, NAMES, 0.001)
    check_served(files, NAMES)
    renew_certificate(tmp_path, NAMES, -0.001)
    with pytest.raises(InputError, match=r"server\.crt: valid from .* UTC here; run `fedgtv-coordinator renew`"):
        check_served(files, NAMES)


@pytest.mark.parametrize(
    ("called", "lacking"),
    [(["moved.example.org"], "moved.example.org"), ([*NAMES, "192.0.2.8", "b.org"], "192.0.2.8, b.org")],
)
def test_a_certificate_for_other_names_is_refused(files, called, lacking):
    with pytest.raises(InputError) as caught:
        check_served(files, called)
    told = f"{files.certificate}: not for {lacking}; expected all names of federation.yaml, and loopback; run `fed"
    assert str(caught.value).startswith(told)


def test_a_certificate_for_more_names_or_in_other_letters_is_served(files):
    check_served(files, ["GTV.example.org"])


def test_an_authority_is_not_served(files):
    shutil.copy(files.authority, files.certificate)
    shutil.copy(files.authority_key, files.key)
    with pytest.raises(InputError, match=r"server\.crt: an authority's certificate, expected a server's; run .* renew"):
        check_served(files, NAMES)
