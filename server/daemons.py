"""Starting a daemon that answers over TLS on a loopback port, and knowing when it does."""

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import WorkError
from common.processes import STARTS, ProcessTree

HOST = "127.0.0.1"


def start_daemon(
    tree: ProcessTree,
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    authority: Path,
    timeout_s: float,
) -> None:
    """Starts `command` as `tree` and returns when loopback's `port` answers with a certificate signed by `authority`.

    Raises:
        WorkError: the port is taken, another process owns the tree's folder, or the daemon ends or keeps silent; the
            log's end is quoted, and nothing of it is left running.
    """
    if _is_taken(port):
        raise WorkError(f"port {port}: taken by another process; stop it, or choose another port")
    log_start = tree.log_size()
    tree.start(command, environment)
    try:
        _wait_until_up(tree, port, authority, timeout_s, log_start)
    except BaseException:
        tree.stop()
        raise


def _wait_until_up(tree: ProcessTree, port: int, authority: Path, timeout_s: float, log_start: int) -> None:
    deadline = time.monotonic() + timeout_s
    while not answers(port, authority):
        if not tree.running:
            raise WorkError(f"{tree.name}: ended at once: {_last_lines(tree.tail(log_start))}")
        if time.monotonic() > deadline:
            raise WorkError(f"port {port}: no answer within {timeout_s:.0f} s; see {tree.log}")
        time.sleep(0.1)


def _is_taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def answers(port: int, authority: Path) -> bool:
    """Returns whether loopback's `port` answers with a certificate signed by `authority`."""
    context = ssl.create_default_context(cafile=str(authority))
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, port), timeout=2.0) as plain,
        context.wrap_socket(plain, server_hostname=HOST),
    ):
        return True
    return False


def _last_lines(text: str, num_lines: int = 5) -> str:
    lines = (line.strip() for line in text.splitlines())
    return " | ".join(line for line in lines if line not in ("", STARTS))[-200 * num_lines :]
