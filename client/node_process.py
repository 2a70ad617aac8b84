"""Starts Flower's SuperNode with the site's gate in it: `python -m client.node_process` with Flower's arguments."""

import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection, start_client_internal

from client.approval import own_hash
from client.node import CONFIG_VARIABLE, HEARTBEAT_S, LAUNCHER_VARIABLE
from client.node_gate import PULL, PUSH, Gate
from common.logs import log_to_output

log = logging.getLogger("fedgtv.site")
INTERVAL = "HEARTBEAT_DEFAULT_INTERVAL"
"""Flower's name for it, in each module that uses it; a contract test guards it."""


def install(gate: Gate) -> None:
    """Puts the gate's steps in the place of Flower's."""
    vars(start_client_internal)[PULL] = gate.pull
    vars(start_client_internal)[PUSH] = gate.push


def beat_every(seconds: int) -> None:
    """Sets how often the node says that it is there, whatever happens; the coordinator is told, and counts on it."""
    vars(fleet_http_connection)[heartbeat.HeartbeatSender.__name__] = SteadyHeartbeat
    for module in (fleet_http_connection, heartbeat):
        vars(module)[INTERVAL] = seconds


class SteadyHeartbeat(heartbeat.HeartbeatSender):
    """Flower's ends for good over an error that it does not expect; the node then works on, and is held for lost."""

    def __init__(self, heartbeat_fn: Callable[[], bool]) -> None:
        """As Flower's; what the coordinator cannot do now is tried again."""

        def beat() -> bool:
            try:
                return heartbeat_fn()
            except httpx.HTTPError as error:
                log.warning("the coordinator did not take a sign of life: %s", error)
                return False

        super().__init__(beat)


def launch_with(command: Sequence[str]) -> None:
    """Starts what starts the ClientApps; each of the two ends with the other, and the supervisor starts both anew."""
    launcher = subprocess.Popen([*command, "--parent-pid", str(os.getpid())])

    def follow() -> None:
        launcher.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="launcher", daemon=True).start()


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supernode.cli import flower_supernode

    log_to_output()
    beat_every(HEARTBEAT_S)
    config = Path(os.environ[CONFIG_VARIABLE])
    install(Gate(config, own_hash(), start_client_internal))
    if LAUNCHER_VARIABLE in os.environ:
        launch_with(json.loads(os.environ.pop(LAUNCHER_VARIABLE)))
    flower_supernode()


if __name__ == "__main__":
    main()
