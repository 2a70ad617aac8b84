"""A child process and everything it starts, followed and ended as one: the daemons of coordinator and site.

Flower detaches parts of its process tree into sessions of their own, so a process group does not hold all of it. Every
process started here carries one environment variable, `FEDGTV_PROCESS`, which its descendants inherit; /proc/*/environ
then names them all, also after their parent has died. Linux only, as the product is.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from common.errors import WorkError
from common.file_lock import is_held, take

MARK = "FEDGTV_PROCESS"
STARTS = "== started by fedgtv =="
"""The log's line before those of each start; what stands above it is of an earlier process."""
POLL_S = 0.05
TRIES = 5


class ProcessTree:
    """One command, restarted at will, its output appended to `log`.

    `name` and `folder` identify the tree: a second live owner of the same folder is refused, and what an owner that was
    killed left running is ended before the next start.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.name = name
        self._lock: IO[str] | None = None

    @property
    def running(self) -> bool:
        """Whether the first process of the tree lives."""
        return self.process is not None and self.process.poll() is None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts `command` in `folder`, in a session of its own, without a terminal.

        Raises:
            WorkError: another live process owns the folder, or the command cannot be started.
        """
        self.claim()
        marked = dict(environment) | {MARK: self._mark()}
        with self.log.open("ab") as log:
            log.write(f"{STARTS}\n".encode())
            log.flush()
            try:
                self.process = subprocess.Popen(
                    list(command),
                    cwd=self.folder,
                    env=marked,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise WorkError(f"{command[0]}: cannot be started ({error.strerror}); install fedgtv anew") from error

    def claim(self) -> None:
        """Takes the folder for this process, and ends what an owner that was killed left running there.

        Raises:
            WorkError: another live process owns the folder; nothing of its is touched.
        """
        self._own()
        self._end_members()
        if self.process is not None:
            self.process.wait()  # an earlier one of this owner's, ended just now

    def stop(self, grace_s: float = 15.0) -> int | None:
        """Ends the whole tree, asking first; returns the first process's exit code, None if it never ran.

        Without the folder, which another process may own, nothing is ended.
        """
        if self._lock is None:
            return None
        try:
            return self._end_first(grace_s)
        finally:
            self._end_members()
            self._lock.close()
            self._lock = None

    def owned(self) -> bool:
        """Whether a live process, this or another, keeps the tree."""
        return self._lock is not None or is_held(self._lock_path())

    def members(self) -> list[int]:
        """Process ids of the tree that are alive, in ascending order."""
        mark = f"{MARK}={self._mark()}".encode()
        return [process_id for process_id in _process_ids() if mark in _environment(process_id)]

    def tail(self, start: int = 0) -> str:
        """What the log holds from byte `start` on; empty where there is none."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode("utf-8", "replace")

    def log_size(self) -> int:
        """Bytes in the log so far: the `start` of a later `tail`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def _own(self) -> None:
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock_path().open("a")
        if not _taken(lock):
            lock.close()
            raise WorkError(f"{self.folder}: {self.name} runs here already; stop it, or use another folder")
        self._lock = lock

    def _end_first(self, grace_s: float) -> int | None:
        """Asks the first process to end, then kills it; returns its exit code, None if it never ran."""
        if self.process is None:
            return None
        if self.running:
            self.process.terminate()
        try:
            return self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _mark(self) -> str:
        """Name and folder, and the folder's inode: two containers that see each other's processes may share a path."""
        inode = self.folder.stat().st_ino if self.folder.exists() else 0
        return f"{self.name}:{self.folder}:{inode}"

    def _lock_path(self) -> Path:
        return self.folder / f"{self.name}.lock"

    def _end_members(self, grace_s: float = 5.0) -> None:
        """Asks what is left of the tree to end, then kills it; the members reap themselves or belong to init."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for process_id in self.members():
                _send(process_id, signal_number)
            deadline = time.monotonic() + grace_s
            while self.members() and time.monotonic() < deadline:
                time.sleep(POLL_S)


def _taken(lock: IO[str]) -> bool:
    """Takes a lock unless an owner keeps it; whoever only looks (`owned`) holds it for less than the tries last."""
    for _ in range(TRIES):
        if take(lock):
            return True
        time.sleep(POLL_S)
    return False


def flower_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a Flower process: its own FLWR_HOME, no look-ups, commands of this interpreter first.

    Loopback calls between Flower's processes must not pass a hospital's proxy, so NO_PROXY gains loopback.
    """
    environment = dict(os.environ)
    search = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    direct = ["localhost", "127.0.0.1", *filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy")])]
    environment |= {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment |= {"COLUMNS": "1000"}  # else Flower breaks its error messages, and the paths in them, at 80
    environment |= {"MALLOC_ARENA_MAX": environment.get("MALLOC_ARENA_MAX", "2")}  # else models lie in 16
    environment |= {"PATH": os.pathsep.join(search), "NO_PROXY": ",".join(direct), "no_proxy": ",".join(direct)}
    return environment | dict(extra or {})


def flower_command(name: str) -> str:
    """Path of one of Flower's commands beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port of loopback that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process_ids() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _environment(process_id: int) -> list[bytes]:
    """NAME=value pairs of a process; empty for one that is gone, a zombie, or another user's."""
    try:
        return Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _send(process_id: int, signal_number: signal.Signals) -> None:
    try:
        os.kill(process_id, signal_number)
    except ProcessLookupError:
        return
