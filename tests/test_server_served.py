"""Certificates that cannot be served are told by file and remedy, before anything is started."""

import pytest

from common.errors import InputError
from server.provision import certificate_files, make_certificates, renew_certificate
from server.served import check_served


@pytest.fixture
def files(tmp_path):
    return make_certificates(tmp_path, ["localhost"])


def test_made_and_renewed_certificates_can_be_served(files, tmp_path):
    check_served(files)
    renew_certificate(tmp_path, ["localhost"])
    check_served(certificate_files(tmp_path))


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
        other = make_certificates(tmp_path / "other", ["localhost"])
        path.write_bytes(getattr(other, name).read_bytes())
    with pytest.raises(InputError, match=remedy) as caught:
        check_served(files)
    assert str(path if name == "authority" or damage == "missing" else files.certificate) in str(caught.value)
