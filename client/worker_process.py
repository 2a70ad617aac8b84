"""Starts Flower's SuperExec for the worker: `python -m client.worker_process` with Flower's arguments."""

import shutil
import subprocess

from flwr.common.constant import APP_DIR
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.utils import get_flwr_home

from common.atomic import OWNERS, write_text_atomically
from common.logs import log_to_output

TOKEN = "task.token"
"""Below the worker's FLWR_HOME: of the task that was started last."""


class FreshCode(SubprocessExecutor):
    """Starts a ClientApp without what an earlier one may have left where Flower looks for unpacked code first.

    For our own launcher, whose node is on loopback or the containers' network, without TLS.
    """

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """As Flower's, but for the task's token: on a command line, every user of the machine could read it.

        One task runs at a time, so nobody is using what goes.
        """
        shutil.rmtree(get_flwr_home() / APP_DIR, ignore_errors=True)
        path = get_flwr_home() / TOKEN
        write_text_atomically(path, spec.token, OWNERS)
        command = [TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]]
        command += [spec.runtime_api_address, "--token-file", str(path), "--insecure"]
        subprocess.Popen([*command, "--parent-pid", str(spec.parent_pid)])
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
