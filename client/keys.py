"""The site's own key pair: made here, the private half never leaves; its public half goes into a join request."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.atomic import OWNERS, create_atomically, write_text_atomically
from common.enrolment import JoinRequest, write_join_request
from common.errors import InputError
from common.settings import validate


@dataclass(frozen=True)
class SiteKey:
    """Where a site's key lies: `private` (mode 0600), `public`, and the `request` to send to the coordinator."""

    private: Path
    public: Path
    request: Path


def key_files(site: str, folder: Path) -> SiteKey:
    """The three files of `site` in `folder`, whether they exist or not."""
    return SiteKey(folder / "site.key", folder / "site.pub", folder / f"{site}.join.json")


def make_key(site: str, folder: Path) -> SiteKey:
    """Makes an ECDSA P-384 key pair in OpenSSH form and the join request of `site`.

    The private key is created with mode 0600 in a folder of mode 0700, without passphrase: the daemon must start
    unattended, so the file system guards it.

    Raises:
        InputError: a key is there already; it is never overwritten.
        ConfigError: `site` is no name.
    """
    files = key_files(site, folder)
    key = ec.generate_private_key(ec.SECP384R1())
    request = request_of(site, _public_text(key.public_key()))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_secret(files.private, _private_bytes(key))
    write_text_atomically(files.public, request.public_key + "\n")
    write_join_request(request, files.request)
    return files


def request_of(site: str, public_key: str) -> JoinRequest:
    """Returns the join request of `site` (ConfigError for a name that is none)."""
    return validate({"site": site, "public_key": public_key}, JoinRequest, f"site {site!r}")


def check_key(path: Path) -> str:
    """Returns the public key that belongs to the private key in `path`.

    Raises:
        InputError: missing, not an ECDSA P-384 key in OpenSSH form, or readable by others.
    """
    try:
        mode = path.stat().st_mode & 0o777
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no site key ({error}); make one with fedgtv-site init") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"{path}: not an ECDSA P-384 key; make one with fedgtv-site init")
    if mode & 0o077:
        raise InputError(f"{path}: mode {mode:04o} lets others read the key; expected 0600: chmod 600 {path}")
    return _public_text(key.public_key())


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _public_text(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")


def _write_secret(path: Path, data: bytes) -> None:
    try:
        create_atomically(path, data, OWNERS)
    except FileExistsError as error:
        raise InputError(f"{path}: a key exists and is never overwritten; move it away to make a new one") from error
