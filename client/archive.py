"""A bundle's archive, read into memory and nowhere else: what is not plain, small source files is refused as a whole.

A bundle comes from outside, and Flower unpacks what it is given. So every entry is judged by what the archive's
directory and the entry's own header say, before a byte of it is unpacked: names (`..`, absolute, drives, NUL,
duplicates, names that some file system takes for the same), kinds (links, devices, folders), packing (encrypted,
unknown methods, entries that share their bytes), sizes and counts (bombs). Flower's own manifest must name exactly the
files there are.
"""

import hashlib
import io
import re
import stat
import tomllib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from common.errors import ApprovalError

MAX_BUNDLE_BYTES = 10 * 2**20
"""Flower's own limit on a bundle."""
MAX_FILES = 1000
MAX_FILE_BYTES = 4 * 2**20
MAX_TOTAL_BYTES = 64 * 2**20
MAX_RATIO = 100
"""Source text packs some four to one; a bomb a thousand to one."""
SMALL_BYTES = 64 * 2**10
"""Below this, no ratio matters."""
MAX_NAME = 200
MANIFEST, PROJECT = ".info/CONTENT", "pyproject.toml"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
SUFFIXES = (".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl")
"""What Flower 1.41 bundles, beside LICENSE."""
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows takes for devices."""
FLAGS = 0x800
"""Of an entry's flag bits, the one for UTF-8 names may be set; others mean encryption, patches, or sizes not told."""
HEADER_BYTES, DIRECTORY_BYTES, END_BYTES = 30, 46, 22
"""Of an entry's header, its line in the directory, and the archive's end, each without names (ZIP, APPNOTE 4.3)."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose archive is decent; what its code does is another question."""

    files: dict[str, bytes]
    """By name, without Flower's manifest."""
    sha256: str
    """Of the archive."""
    name: str
    version: str


def read_bundle(data: bytes) -> Bundle:
    """Returns the bundle in an archive.

    Raises:
        ApprovalError: `hostile-code`: the archive holds what no bundle holds; the first such thing is named.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise _hostile(f"{len(data):,} bytes; expected at most {MAX_BUNDLE_BYTES:,}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_entries(archive, len(data))
            files = {entry.filename: _unpack(archive, entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ApprovalError):
            raise
        raise _hostile(f"no sound archive ({' '.join(str(error).split())[:120]})") from error
    _check_manifest(files)
    project = _project(files)
    return Bundle(files, hashlib.sha256(data).hexdigest(), str(project["name"]), str(project["version"]))


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise _hostile(f"{len(entries)} entries; expected at most {MAX_FILES}")
    if archive.comment:
        raise _hostile("a comment behind the archive")
    for entry in entries:
        fault = _fault_of_name(entry.orig_filename) or _fault_of_kind(entry) or _fault_of_size(entry)
        if fault:
            raise _hostile(f"entry {entry.orig_filename[:60]!r} {fault}")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_TOTAL_BYTES:
        raise _hostile(f"unpacks to {total:,} bytes; expected at most {MAX_TOTAL_BYTES:,}")
    _check_together([entry.filename for entry in entries])
    _check_places(entries, archive.start_dir, size)


def _fault_of_name(name: str) -> str:
    if len(name) > MAX_NAME:
        return f"has a name of {len(name)} characters; expected at most {MAX_NAME}"
    if name == MANIFEST:
        return ""
    if not NAME.fullmatch(name) or any(part.endswith(".") for part in name.split("/")):
        return "has a name that is not plain; expected letters, digits, _ . - and folders below the bundle"
    if any(DEVICES.match(part) for part in name.split("/")):
        return "has the name of a device"
    if name not in ("LICENSE", "LICENSE.md") and not name.endswith(SUFFIXES):
        return f"is of no kind that a bundle holds ({', '.join(SUFFIXES)}, LICENSE)"
    return ""


def _fault_of_kind(entry: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or entry.is_dir() or entry.external_attr & 0x10:
        return "is a link, a folder or a device; expected plain files"
    if entry.external_attr >> 16 & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        return "would run with its owner's rights"
    if entry.flag_bits & ~FLAGS:
        return f"is encrypted or streamed (flags {entry.flag_bits:#x}); expected neither"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {entry.compress_type}; expected stored or deflated"
    if entry.extra or entry.comment:
        return "carries extra fields or a comment"
    return ""


def _fault_of_size(entry: zipfile.ZipInfo) -> str:
    if entry.file_size > MAX_FILE_BYTES:
        return f"unpacks to {entry.file_size:,} bytes; expected at most {MAX_FILE_BYTES:,}"
    if entry.file_size > SMALL_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
        return f"unpacks to {entry.file_size // max(1, entry.compress_size)} times its size"
    return ""


def _check_together(names: list[str]) -> None:
    """No two entries may land in one place, on any file system, and none may need another to be a folder."""
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            raise _hostile(f"entries {seen[name.casefold()]!r} and {name!r} have one name")
        seen[name.casefold()] = name
    for plain, name in seen.items():
        for folder in map(str, PurePosixPath(plain).parents):
            if folder in seen:
                raise _hostile(f"entry {seen[folder]!r} is a file and the folder of {name!r}")


def _check_places(entries: list[zipfile.ZipInfo], directory: int, size: int) -> None:
    """Entries lie one behind the other from the first byte to the last: none shares bytes, and nothing is hidden."""
    end = 0
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset != end:
            raise _hostile(f"entry {entry.filename!r} begins at byte {entry.header_offset}; expected {end}")
        end += HEADER_BYTES + len(entry.orig_filename.encode()) + entry.compress_size
    rest = sum(DIRECTORY_BYTES + len(entry.orig_filename.encode()) for entry in entries) + END_BYTES
    if end != directory or directory + rest != size:
        raise _hostile(f"{size - end - rest} bytes that belong to no entry; expected none")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:  # checks the entry's own header, then its CRC at the end
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) != entry.file_size:
        raise _hostile(f"entry {entry.filename!r} unpacks to another size than it states")
    return data


def _check_manifest(files: dict[str, bytes]) -> None:
    """Takes the manifest out of `files`; it names each other file with its hash, and no more."""
    stated = {}
    for line in files.pop(MANIFEST, b"").decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(",")
        stated[name] = rest.partition(",")[0]
    if stated != {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}:
        raise _hostile(f"{MANIFEST} does not name the files that are there, each with its hash")


def _project(files: dict[str, bytes]) -> dict[str, Any]:
    try:
        project = tomllib.loads(files[PROJECT].decode("utf-8"))["project"]
        if all(isinstance(project[key], str) and project[key].isprintable() for key in ("name", "version")):
            return dict(project)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _hostile(f"no {PROJECT} with name and version") from error
    raise _hostile(f"{PROJECT}: name or version is no printable text")


def _hostile(what: str) -> ApprovalError:
    return ApprovalError.of("hostile-code", f"bundle: {what}; it is not kept and cannot be approved")
