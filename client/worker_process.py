"""Starts Flower's SuperExec for the worker: `python -m client.worker_process` with Flower's arguments."""

import shutil

from flwr.common.constant import APP_DIR
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.utils import get_flwr_home

from common.logs import log_to_output


class FreshCode(SubprocessExecutor):
    """Starts a ClientApp without what an earlier one may have left where Flower looks for unpacked code first."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """As Flower's; one task runs at a time, so nobody is using what goes."""
        shutil.rmtree(get_flwr_home() / APP_DIR, ignore_errors=True)
        return super().launch(spec)


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.superexec.executor import factory

    log_to_output()
    vars(factory)[SubprocessExecutor.__name__] = FreshCode
    flower_superexec()


if __name__ == "__main__":
    main()
