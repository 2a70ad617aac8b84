"""Hostile archives, by what is wrong with each; and how a decent bundle is packed."""

import hashlib
import io
import stat
import struct
import zipfile
from collections.abc import Callable

from client.archive import MAX_BUNDLE_BYTES

PROJECT = b'[project]\nname = "x"\nversion = "1"\n'
FILES = {"pyproject.toml": PROJECT, "client/app.py": b"app = 1\n"}


def manifest(files: dict[str, bytes]) -> bytes:
    return "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in files.items()
    ).encode()


def packed(*more: tuple[str | zipfile.ZipInfo, bytes], files: dict[str, bytes] | None = None,
           stated: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:  # fmt: skip
    """A bundle of good files and then `more` entries, which the manifest names too."""
    files = FILES if files is None else files
    told = files | {entry if isinstance(entry, str) else entry.filename: data for entry, data in more}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
        for entry, data in more:
            file.writestr(zipfile.ZipInfo(entry) if isinstance(entry, str) else entry, data, method)
        file.writestr(zipfile.ZipInfo(".info/CONTENT"), manifest(told) if stated is None else stated, method)
    return buffer.getvalue()


def entry(name: str, mode: int = 0, attributes: int = 0, **fields: object) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = (mode << 16) | attributes
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def patched(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new, count)


def header_field(data: bytes, offset: int, form: str, value: int, directory_offset: int | None = None) -> bytes:
    """The archive with a field of the first entry set in its own header and, if told, in the directory."""
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    if directory_offset is not None:
        struct.pack_into(form, changed, data.index(b"PK\x01\x02") + directory_offset, value)
    return bytes(changed)


def sharing() -> bytes:
    """Two names in the directory for one entry's bytes: how a bomb of 42 kB holds petabytes."""
    data = packed()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    first_end = data.index(b"PK\x01\x02", start + 4)
    again = data[start:first_end].replace(b"pyproject.toml", b"pyproject.tomx".replace(b"x", b"l")[:13] + b"m")
    again = again.replace(b"pyproject.tomm", b"pyprojecu.toml")
    directory = data[start:end] + again
    tail = bytearray(data[end:])
    struct.pack_into("<HH", tail, 8, 4, 4)
    struct.pack_into("<I", tail, 12, len(directory))
    return data[:start] + directory + bytes(tail)


NAMES = ["../evil.py", "client/../../evil.py", "..", "client/..", "./client/b.py", "client/./b.py",
         "/etc/cron.d/evil.py",
         "//server/share/evil.py", "C:evil.py", "C:/evil.py", "c:\\evil.py", "..\\evil.py", "client\\evil.py",
         "client/evil.py ", "client/evil.py.", " client/evil.py", "client//evil.py", "client/e\nvil.py",
         "client/e\x1b[2Jvil.py", "client/\u202eyp.live.py", "client/ﬁle.py", "~/evil.py",
         "client/$HOME.py", "client/con.py",
         "client/NUL.py", "com1.py", "client/aux.json", "client/.hidden.py", ".info/other.py", ".git/config.py",
         "-rf.py", "client/" + "a" * 300 + ".py", "evil.so", "evil.pth", "client/evil.pyc", "evil.sh", "sitecustomize",
         "client/evil.html"]  # fmt: skip
HOSTILE: dict[str, Callable[[], bytes]] = {
    **{f"name {name[:20]!r}": lambda name=name: packed((name, b"x")) for name in NAMES},
    "name with NUL": lambda: patched(packed(("client/evilX.py", b"x")), b"client/evilX.py", b"client/evil\0.py"),
    "folder": lambda: packed(("client/sub/", b"")),
    "folder by DOS attribute": lambda: packed((entry("client/sub.py", attributes=0x10), b"")),
    "symbolic link": lambda: packed((entry("client/link.py", stat.S_IFLNK | 0o777), b"/etc/passwd")),
    "character device": lambda: packed((entry("client/zero.py", stat.S_IFCHR | 0o666), b"")),
    "block device": lambda: packed((entry("client/disk.py", stat.S_IFBLK | 0o666), b"")),
    "fifo": lambda: packed((entry("client/fifo.py", stat.S_IFIFO | 0o666), b"")),
    "socket": lambda: packed((entry("client/socket.py", stat.S_IFSOCK | 0o666), b"")),
    "set-uid": lambda: packed((entry("client/root.py", stat.S_IFREG | stat.S_ISUID | 0o755), b"")),
    "the same name twice": lambda: packed(("client/app.py", b"app = 2\n")),
    "names that differ in case": lambda: packed(("client/App.py", b"app = 2\n")),
    "folders that differ in case": lambda: packed(("CLIENT/app.py", b"app = 2\n")),
    "a file that is a folder too": lambda: packed(("client/app.py/evil.py", b"x")),
    "bomb": lambda: packed(("client/bomb.py", b"0" * 3_000_000)),
    "large file": lambda: packed(("client/large.json", bytes(range(256)) * 20_000)),
    "many large files": lambda: packed(
        *((f"client/f{n}.json", bytes((n + i * i // 97) % 251 for i in range(4096)) * 970) for n in range(17))
    ),
    "many files": lambda: packed(*((f"client/f{n}.py", b"") for n in range(1_100))),
    "more bytes than Flower allows": lambda: packed() + bytes(MAX_BUNDLE_BYTES),
    "encrypted": lambda: header_field(packed(), 6, "<H", 1, 8),
    "sizes told later": lambda: header_field(packed(), 6, "<H", 8, 8),
    "bzip2": lambda: packed(method=zipfile.ZIP_BZIP2),
    "lzma": lambda: packed(method=zipfile.ZIP_LZMA),
    "unknown packing": lambda: header_field(packed(), 8, "<H", 99, 10),
    "size that is a lie": lambda: header_field(packed(), 22, "<I", 7, 24),
    "wrong CRC": lambda: header_field(packed(), 14, "<I", 7, 16),
    "two names for one entry": sharing,
    "header with another name": lambda: patched(packed(), b"client/app.py", b"client/apq.py", 1),
    "extra field": lambda: packed((entry("client/x.py", extra=b"\x99\x99\x04\x00evil"), b"")),
    "comment of an entry": lambda: packed((entry("client/x.py", comment=b"evil"), b"")),
    "something before it": lambda: b"#!/bin/sh\n" + packed(),
    "something behind it": lambda: packed() + b"evil",
    "comment of the archive": lambda: packed()[:-2] + b"\x04\x00evil",
    "cut short": lambda: packed()[:-30],
    "no archive": lambda: b"MZ" * 500,
    "nothing": lambda: b"",
    "empty archive": lambda: b"PK\x05\x06" + bytes(18),
    "no manifest": lambda: packed(stated=b""),
    "manifest with a wrong hash": lambda: packed(stated=manifest(FILES).replace(b"0", b"1")),
    "file not in the manifest": lambda: packed(("client/x.py", b"x"), stated=manifest(FILES)),
    "manifest names a missing file": lambda: packed(stated=manifest(FILES | {"client/y.py": b""})),
    "no project": lambda: packed(files={"client/app.py": b""}),
    "project that is no TOML": lambda: packed(files={"pyproject.toml": b"\xff[["}),
    "project without a name": lambda: packed(files={"pyproject.toml": b"[project]\nversion = '1'\n"}),
    "name that writes to the terminal": lambda: packed(
        files={"pyproject.toml": b'[project]\nname = "x\\u001b[2J"\nversion = "1"\n'}
    ),
}  # fmt: skip
