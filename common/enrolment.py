"""What a site hands to the coordinator to be let in: its name and its public key, nothing secret.

The join request is a small JSON file. Its fingerprint is that of `ssh-keygen -lf`, to be read out over the telephone.
"""

import base64
import binascii
import hashlib
import json
from pathlib import Path

from pydantic import field_validator

from common.atomic import write_text_atomically
from common.errors import InputError, SiteError
from common.settings import Frozen, Name, validate

KEY_TYPE = "ecdsa-sha2-nistp384"
"""The only kind of key in use; Flower 1.41 refuses ed25519."""
EXPECTED = "give the file SITE.join.json that fedgtv-site init wrote"


class JoinRequest(Frozen):
    """The file `SITE.join.json`."""

    site: Name
    public_key: str
    """One OpenSSH line: type and base64, without comment."""

    @field_validator("public_key")
    @classmethod
    def _is_p384(cls, value: str) -> str:
        parts = value.split()
        if len(parts) != 2 or parts[0] != KEY_TYPE:
            raise ValueError(f"expected '{KEY_TYPE} BASE64'; make the key with fedgtv-site init")
        _key_bytes(value)
        return value

    @property
    def fingerprint(self) -> str:
        """`SHA256:...` of the public key."""
        return fingerprint(self.public_key)


def fingerprint(public_key: str) -> str:
    """Returns `SHA256:` and the unpadded base64 digest of an OpenSSH public key, as `ssh-keygen -lf` prints it.

    Raises:
        ValueError: the key is not base64 or does not hold its own type.
    """
    digest = hashlib.sha256(_key_bytes(public_key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def write_join_request(request: JoinRequest, path: Path) -> None:
    """Writes the request with its fingerprint, for people to compare."""
    record = request.model_dump() | {"fingerprint": request.fingerprint}
    write_text_atomically(path, json.dumps(record, indent=2) + "\n")


def read_join_request(path: Path) -> JoinRequest:
    """Returns the request in `path`.

    Raises:
        InputError: unreadable, not JSON, or a wrong key (ConfigError).
        SiteError: the fingerprint written beside the key is another key's.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {EXPECTED}") from error
    except ValueError as error:
        raise InputError(f"{path}: no join request; {EXPECTED}") from error
    if not isinstance(record, dict) or not JoinRequest.model_fields.keys() <= record.keys():
        raise InputError(f"{path}: no join request; {EXPECTED}")
    stated = record.pop("fingerprint", None)
    request = validate(record, JoinRequest, str(path))
    if stated != request.fingerprint:
        raise SiteError(f"{path}: states fingerprint {stated}, its key has {request.fingerprint}; ask for it again")
    return request


def _key_bytes(public_key: str) -> bytes:
    try:
        kind, body = public_key.split()[:2]
        raw = base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError("the public key is not an OpenSSH line") from error
    if raw[4 : 4 + len(kind)] != kind.encode():
        raise ValueError(f"the public key does not hold its type {kind}")
    return raw
