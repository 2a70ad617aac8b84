"""Starts Flower's SuperNode with the site's gate in it: `python -m client.node_process` with Flower's arguments."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.approval import own_hash
from client.handover import VARIABLE
from client.node import CONFIG_VARIABLE, HEARTBEAT_S, LAUNCHER_VARIABLE
from client.node_gate import PULL, PUSH, Gate
from client.node_pauses import Pauses
from client.task_objects import answer_first
from common.logs import log_to_output

log = logging.getLogger("fedgtv.site")
TIME = "time"
"""What Flower's loop calls its clock's module; a contract test guards it."""
INTERVAL = "HEARTBEAT_DEFAULT_INTERVAL"
"""Flower's name for it, in each module that uses it; a contract test guards it."""
RETRY = "make_simple_http_retry_invoker"
"""Flower's name for what decides which calls are made again."""
PUSH_OBJECT = "/v1/fleet/push-object"
PIECE_BYTES = 1 << 16
"""What is written at one go, and has the timeout of a write for it."""
CALL_S, UPLOAD_S = 30.0, 150.0
"""What any call has for its answer, as Flower gives it; and one that uploads a part of a model."""


def install(gate: Gate) -> None:
    """Puts the gate's steps and pauses in the place of Flower's."""
    vars(start_client_internal)[PULL] = gate.pull
    vars(start_client_internal)[PUSH] = gate.push
    vars(start_client_internal)[TIME] = Pauses(gate.quiet_s)


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


def tell_refusals() -> None:
    """Has the node say that a call was refused (401): Flower's ends itself over it without a word."""
    vars(fleet_http_connection)[RETRY] = _telling(vars(fleet_http_connection)[RETRY])


def _telling(make_invoker: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        invoker = make_invoker()
        gives_up = invoker.should_giveup

        def should_giveup(error: Exception) -> bool:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED:
                print(error, file=sys.stderr, flush=True)
            return bool(gives_up(error))

        invoker.should_giveup = should_giveup
        return invoker

    return make


class SlowUploads(FleetHttpClient):
    """Flower's calls, with time for an upload over a slow line.

    Flower gives a part (5 MB) 30 s to be written, all of it, and 30 s for the answer, then sends it again from its
    start: on a slow line for ever. Here every piece of a part has so long to be written; and what is in the system's
    buffers by then, which can be all of it, has more time to get to the coordinator.
    """

    def _unary_unary(self, *, path: str, **call: Any) -> Any:
        if path == PUSH_OBJECT:
            call["timeout"] = httpx.Timeout(CALL_S, read=UPLOAD_S)
        return super()._unary_unary(path=path, **call)

    def _send(self, context: Any, **options: Any) -> httpx.Response:
        context.request.stream = Pieces(context.request.content)
        return super()._send(context, **options)


class Pieces(httpx.SyncByteStream):
    """A body that is written piece by piece, so that time is given to each."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), PIECE_BYTES):
            yield self._body[start : start + PIECE_BYTES]


def give_uploads_time() -> None:
    """Has the node upload with `SlowUploads`."""
    vars(fleet_http_connection)[FleetHttpClient.__name__] = SlowUploads


def launch_with(command: Sequence[str]) -> None:
    """Starts what starts the ClientApps; each of the two ends with the other, and the supervisor starts both anew."""
    launcher = subprocess.Popen([*command, "--parent-pid", str(os.getpid())])

    def follow() -> None:
        launcher.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="launcher", daemon=True).start()


def end_for_good() -> None:
    """Ends the process, so that its supervisor starts it anew.

    Flower's loop returns over an error of the connection that it does not try again, such as a TLS handshake that no
    one answers. Its interface for ClientApps would then keep the process alive, with nobody left to ask for work.
    """
    log.warning("the connection to the coordinator is broken; the node starts anew")
    logging.shutdown()
    os._exit(1)  # what it started ends with it


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supernode import main as flower_main
    from flwr.supernode.cli import flower_supernode

    log_to_output()
    beat_every(HEARTBEAT_S)
    tell_refusals()
    give_uploads_time()
    config = Path(os.environ[CONFIG_VARIABLE])
    gate = Gate(config, own_hash(), start_client_internal)
    answer_first(flower_main, gate.handed_over)
    install(gate)
    if LAUNCHER_VARIABLE in os.environ:
        if gate.handover_folder is not None:
            os.environ[VARIABLE] = str(gate.handover_folder)
        launch_with(json.loads(os.environ.pop(LAUNCHER_VARIABLE)))
    flower_supernode()
    end_for_good()


if __name__ == "__main__":
    main()
