"""Starts Flower's SuperExec for the worker: `python -m client.worker_process` with Flower's arguments."""

import logging
import os
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess

import httpx
from flwr.common.constant import FLWR_HOME, SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.utils import get_flwr_home

from client import warm_start
from client.loaded_release import InstalledRelease
from common.atomic import OWNERS, write_text_atomically
from common.logs import log_to_output

log = logging.getLogger("fedgtv.site")
TOKEN, HOME = "task.token", "task-"
"""What a task has of its own below the worker's FLWR_HOME: a folder of this name and some digits, its token in it."""
LOOK_EVERY = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
LOOK_EVERY_S = "0.2"
"""Flower's setting of how often its launcher asks the node for a task, else 1 s; 2 ms of a processor each time."""
LEAVE_S = 10.0
"""What an earlier ClientApp gets to end by itself, and again once it was asked to."""


@dataclass
class Running:
    """A ClientApp at work, and the thread that waits for its end: nothing else does."""

    process: BaseProcess
    spec: ExecutionSpec
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._follow, name="clientapp", daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        """Ends the task when the process has ended; a node that has heard of it from the ClientApp refuses that."""
        self.process.join()
        _tell_ended(self.spec, f"ended with exit code {self.process.exitcode}")

    def end(self) -> None:
        """Waits for its end, then asks for it, then kills."""
        for act in (self.process.terminate, self.process.kill):
            self.thread.join(LEAVE_S)
            if not self.thread.is_alive():
                return
            act()
        self.thread.join()


class FreshCode(SubprocessExecutor):
    """Starts a ClientApp in a new FLWR_HOME: Flower uses unread what lies unpacked in an old one.

    For our own launcher, whose node is on loopback or the containers' network, without TLS. The end of a ClientApp is
    told to the node at once: Flower itself would wait for a minute of missed heartbeats.
    """

    def __init__(self, release: InstalledRelease | None = None) -> None:
        """`release`: the code that a task may find loaded."""
        self._release = release
        self._running: Running | None = None

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """As Flower's, but for the task's token: on a command line, every user of the machine could read it.

        One task runs at a time, so nobody is using what goes. What cannot be removed is left: no task looks there. A
        ClientApp that still runs works for a node that was killed since, and would disturb this one: it is ended.
        """
        if self._running is not None:
            self._running.end()
        try:
            self._running = Running(self._start(spec), spec)
        except OSError as error:  # a full disk, mostly; the launcher itself must not end over it
            log.error("the process for a task cannot be started: %s", error)
            _tell_ended(spec, "cannot be started")
            return LaunchResult.failed("cannot be started")
        return LaunchResult.accepted()

    def _start(self, spec: ExecutionSpec) -> BaseProcess:
        homes = get_flwr_home()
        for earlier in homes.glob(f"{HOME}*"):
            shutil.rmtree(earlier, ignore_errors=True)
        home = homes / f"{HOME}{secrets.token_hex(8)}"
        home.mkdir(parents=True)
        path = home / TOKEN
        write_text_atomically(path, spec.token, OWNERS)
        command = [TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]]
        command += [spec.runtime_api_address, "--token-file", str(path), "--insecure"]
        command += ["--parent-pid", str(spec.parent_pid)]
        return warm_start.start(command, {FLWR_HOME: str(home)}, self._release)


def _tell_ended(spec: ExecutionSpec, details: str) -> None:
    with suppress(httpx.HTTPError):
        client = RuntimeHttpClient.from_server_address(
            spec.runtime_api_address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor("SuperExec"), RuntimeTokenHttpInterceptor(spec.token)],
        )
        with client:
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=details))


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.superexec.executor import factory

    log_to_output()
    os.environ.setdefault(LOOK_EVERY, LOOK_EVERY_S)
    release = InstalledRelease.read()
    warm_start.prepare()
    vars(factory)[SubprocessExecutor.__name__] = partial(FreshCode, release)
    flower_superexec()


if __name__ == "__main__":
    main()
