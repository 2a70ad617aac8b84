"""Starts Flower's SuperExec for the worker: `python -m client.worker_process` with Flower's arguments."""

import os
import secrets
import shutil
import subprocess

from flwr.common.constant import FLWR_HOME
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.utils import get_flwr_home

from common.atomic import OWNERS, write_text_atomically
from common.logs import log_to_output

TOKEN, HOME = "task.token", "task-"
"""What a task has of its own below the worker's FLWR_HOME: a folder of this name and some digits, its token in it."""


class FreshCode(SubprocessExecutor):
    """Starts a ClientApp in a new FLWR_HOME: Flower uses unread what lies unpacked in an old one.

    For our own launcher, whose node is on loopback or the containers' network, without TLS.
    """

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """As Flower's, but for the task's token: on a command line, every user of the machine could read it.

        One task runs at a time, so nobody is using what goes. What cannot be removed is left: no task looks there.
        """
        homes = get_flwr_home()
        for earlier in homes.glob(f"{HOME}*"):
            shutil.rmtree(earlier, ignore_errors=True)
        home = homes / f"{HOME}{secrets.token_hex(8)}"
        home.mkdir(parents=True)
        path = home / TOKEN
        write_text_atomically(path, spec.token, OWNERS)
        command = [TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]]
        command += [spec.runtime_api_address, "--token-file", str(path), "--insecure"]
        subprocess.Popen([*command, "--parent-pid", str(spec.parent_pid)], env=os.environ | {FLWR_HOME: str(home)})
        return LaunchResult.accepted()


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.superexec.executor import factory

    log_to_output()
    vars(factory)[SubprocessExecutor.__name__] = FreshCode
    flower_superexec()


if __name__ == "__main__":
    main()
