"""Which code may run at a site: the bundle of its own release, and those that a person here has approved.

A bundle is known by the SHA-256 of its bytes. Flower installs bundles under its first 8 digits; here all 64 count.
What is neither own nor approved is kept aside in the site's state, so that `fedgtv-site approve` can show it.
"""

import base64
import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from client.archive import Bundle, read_bundle
from common.atomic import OWNERS, replacing, write_text_atomically
from common.bundle import build_bundle
from common.enrolment import fingerprint
from common.errors import ApprovalError, ConfigError, InputError
from common.private import private_folder

MAX_ASIDE = 8
"""Bundles kept for `approve`; a coordinator that sends more pushes out the oldest, and cannot fill the disk."""
SHORT = 12
"""Digits of a hash that people see and type."""
LEAST = 8
SIGNATURE_BYTES = 64
NO_NEWLINE = "\\ no newline at the end"


@dataclass(frozen=True)
class Approved:
    """One line of the approvals."""

    sha256: str
    name: str
    version: str
    time: str


class Approvals:
    """The approvals and the bundles of a site, below its state folder."""

    def __init__(self, state: Path) -> None:
        self._file = state / "approved.json"
        self._approved = state / "bundles" / "approved"
        self._aside = state / "bundles" / "waiting"

    def check(self, data: bytes, stated: str, own: str) -> tuple[Bundle, str]:
        """Returns the bundle in `data` and why it may run: it is this release's, or approved on a date.

        Args:
            data: the archive as it came.
            stated: the hash under which it was announced.
            own: that of this release's own bundle.

        Raises:
            ApprovalError: `tampered-code`: other bytes than announced; `hostile-code`: no decent archive;
                `unapproved-code`: nobody here has approved it. It is then kept aside.
        """
        found = hashlib.sha256(data).hexdigest()
        if found != stated:
            raise ApprovalError.of(
                "tampered-code",
                f"the code has hash {found[:SHORT]}, announced was {stated[:SHORT]!r}: changed on its way; nothing was "
                "run or kept; tell the coordinator",
            )
        bundle = read_bundle(data)
        if found == own:
            return bundle, "this release's own"
        for each in self.approved():
            if each.sha256 == found:
                return bundle, f"approved {each.time[:10]}"
        self._keep_aside(found, data)
        raise ApprovalError.of(
            "unapproved-code",
            f"the code {bundle.name} {bundle.version}, hash {found[:SHORT]}, is not this release's and not approved; "
            f"nothing was run; to see and allow it: fedgtv-site approve {found[:SHORT]}",
        )

    def approved(self) -> tuple[Approved, ...]:
        """All approvals, the oldest first (ConfigError: their file is damaged)."""
        if not self._file.exists():
            return ()
        try:
            return tuple(Approved(**line) for line in json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._file}: damaged; move it away and approve anew what may run") from error

    def waiting(self) -> tuple[Path, ...]:
        """Bundles that were kept aside, the newest first."""
        known = {each.sha256 for each in self.approved()}
        paths = self._aside.glob("*.fab") if self._aside.is_dir() else ()
        waiting = [path for path in paths if path.stem not in known]
        return tuple(sorted(waiting, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True))

    def find(self, named: str) -> bytes:
        """Returns the waiting bundle whose hash begins with `named`, or the file of that name.

        Raises:
            InputError: there is none, or several begin so.
        """
        path = Path(named)
        if path.is_file():
            return path.read_bytes()
        found = [path for path in self.waiting() if len(named) >= LEAST and path.stem.startswith(named.lower())]
        if len(found) != 1:
            known = ", ".join(path.stem[:SHORT] for path in self.waiting()) or "none"
            raise InputError(
                f"{named!r}: {len(found)} bundles match; expected at least {LEAST} digits of a waiting bundle's hash "
                f"(waiting: {known}), or a .fab file"
            )
        return found[0].read_bytes()

    def approve(self, data: bytes) -> Approved:
        """Lets a bundle run from now on, and keeps it to be compared with later ones.

        Raises:
            ApprovalError: it is no decent archive.
        """
        bundle = read_bundle(data)
        line = Approved(bundle.sha256, bundle.name, bundle.version, datetime.now(UTC).isoformat(timespec="seconds"))
        lines = [each for each in self.approved() if each.sha256 != bundle.sha256] + [line]
        _write(private_folder(self._approved) / f"{bundle.sha256}.fab", data)
        write_text_atomically(self._file, json.dumps([vars(each) for each in lines], indent=1) + "\n", OWNERS)
        (self._aside / f"{bundle.sha256}.fab").unlink(missing_ok=True)
        return line

    def last_approved(self) -> tuple[str, Bundle]:
        """What a new bundle is compared with: its title, and the last approved bundle, or else this release's own."""
        for each in reversed(self.approved()):
            path = self._approved / f"{each.sha256}.fab"
            if path.exists():
                return f"{each.name} {each.version} {each.sha256[:SHORT]}, approved {each.time[:10]}", _read(path)
        return "this release's own", read_bundle(build_bundle())

    def _keep_aside(self, digest: str, data: bytes) -> None:
        path = private_folder(self._aside) / f"{digest}.fab"
        if not path.exists():
            _write(path, data)
        for old in self.waiting()[MAX_ASIDE:]:
            old.unlink(missing_ok=True)


def own_hash() -> str:
    """Returns the hash of the bundle that this installed release builds."""
    return hashlib.sha256(build_bundle()).hexdigest()


@dataclass(frozen=True)
class Change:
    """One file that differs: `added`, `removed` or `changed`, with its difference as unified text."""

    name: str
    kind: str
    text: str


def changes(old: Bundle, new: Bundle) -> tuple[Change, ...]:
    """Returns how `new` differs from `old`, file by file, by name; control characters are shown, not sent."""
    return tuple(
        Change(name, _kind(name, old, new), "\n".join(_difference(name, old, new)))
        for name in sorted(set(old.files) | set(new.files))
        if old.files.get(name) != new.files.get(name)
    )


def _kind(name: str, old: Bundle, new: Bundle) -> str:
    return "added" if name not in old.files else "removed" if name not in new.files else "changed"


def _difference(name: str, old: Bundle, new: Bundle) -> Iterator[str]:
    before, after = _lines(old.files.get(name, b"")), _lines(new.files.get(name, b""))
    return difflib.unified_diff(before, after, f"old/{name}", f"new/{name}", lineterm="")


def _lines(data: bytes) -> list[str]:
    """Lines as a terminal may safely show them; what differs in unprintable characters, or in the end, shows too."""
    *lines, rest = data.decode("utf-8", "backslashreplace").split("\n")
    return [_visible(line) for line in lines] + ([_visible(rest), NO_NEWLINE] if rest else [])


def _visible(line: str) -> str:
    return "".join(
        each if each.isprintable() or each == "\t" else each.encode("unicode_escape").decode() for each in line
    )


def signer(data: bytes, signature: bytes, trusted: Sequence[str]) -> str:
    """Returns the fingerprint of the trusted key that has signed a bundle.

    Args:
        data: the bundle.
        signature: detached Ed25519, 64 bytes, raw or in base64.
        trusted: public keys, each PEM or an OpenSSH line.

    Raises:
        ConfigError: a trusted key is no Ed25519 key, or there is none.
        ApprovalError: none of them has signed these bytes.
    """
    if not trusted:
        raise ConfigError("trusted_keys: none in site.yaml; add the coordinator's public key, checked by telephone")
    raw = signature if len(signature) == SIGNATURE_BYTES else _base64(signature)
    for text in trusted:
        key = public_key(text)
        try:
            key.verify(raw, data)
        except InvalidSignature:
            continue
        return key_fingerprint(key)
    raise ApprovalError.of(
        "tampered-code",
        "signature: of none of site.yaml's trusted_keys over this bundle; do not approve it before you know why",
    )


def public_key(text: str) -> Ed25519PublicKey:
    """Returns the key in a PEM block or an OpenSSH line (ConfigError: it is no Ed25519 key)."""
    data = text.strip().encode()
    try:
        key = load_pem_public_key(data) if data.startswith(b"-----") else load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"trusted_keys: {text[:40]!r} is no public key; expected PEM or an OpenSSH line") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"trusted_keys: {text[:40]!r} is no Ed25519 key; make one with openssl genpkey -algorithm ed25519"
        )
    return key


def key_fingerprint(key: Ed25519PublicKey) -> str:
    """`SHA256:...` as `ssh-keygen -lf` prints it, to be compared by telephone."""
    return fingerprint(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii"))


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:
        return b""


def _read(path: Path) -> Bundle:
    return read_bundle(path.read_bytes())


def _write(path: Path, data: bytes) -> None:
    with replacing(path, OWNERS) as unfinished:
        unfinished.write_bytes(data)
