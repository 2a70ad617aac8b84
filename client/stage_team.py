"""The processes that train a stage, one for each of its devices, as the process that started them sees them.

Processes, for threads of one would wait for each other's Python, the more the less there is to compute in a step; and
torch's own tools for several GPUs want them.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Self

from torch import Tensor

from client.stage_process import Place, StageJob, receive_arrays, send_arrays, work
from client.worker_pool import interrupts_wait
from common.checkpoint import Array, Weights
from common.errors import WorkerLostError
from common.shares import Share

_SPAWN = get_context("spawn")  # a fork cannot use a GPU that was opened before it


class StageTeam:
    """One stage's processes; none of them is left when the block ends."""

    def __init__(self, job: StageJob, devices: Sequence[str]) -> None:
        self.stage = job.stage
        self._job, self._devices = job, devices
        self._processes: dict[Connection, SpawnProcess] = {}
        self._state: tuple[Weights, Weights] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Starts the processes; they never see a Ctrl-C, and one that comes meanwhile waits."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedgtv-")))
            stack.callback(self._kill)
            with interrupts_wait():
                for rank, device in enumerate(self._devices):
                    self._start(Place(device, Share(rank, len(self._devices)), folder / "meeting"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pipes(self) -> tuple[Connection, ...]:
        """One for each process, the first one's first; none when they have been ended."""
        return tuple(self._processes)

    def begin(
        self, received: Mapping[str, Array | Tensor], standing: Mapping[str, Array], momentum: Mapping[str, Array]
    ) -> None:
        """Has the processes train.

        Args:
            received: the weights of the round, by parameter.
            standing: those to go on from, where the stage was begun before; else none.
            momentum: to go on with; none: from rest.

        Raises:
            WorkerLostError: a process has ended.
        """
        for pipe in self.pipes:
            with self._talking(pipe):
                for arrays in (received, standing, momentum):
                    send_arrays(pipe, arrays)

    def report(self, pipe: Connection) -> tuple[int, float]:
        """Returns the epoch and the loss that wait in a pipe; the processes go on with `go_on`, or with `state`.

        Raises:
            WorkerLostError: a process has ended.
            Exception: what went wrong in a process.
        """
        self._state = None
        with self._talking(pipe):
            told: tuple[int, float] | Exception = pipe.recv()
        if not isinstance(told, Exception):
            return told
        for each, process in self._processes.items():
            if not process.is_alive():
                raise self._lost(each) from told  # the others tell no more than that they miss it
        raise told

    def state(self) -> tuple[Weights, Weights]:
        """Returns weights and momentum, by parameter, after the epoch that was reported last."""
        if self._state is None:
            first = self.pipes[0]
            with self._talking(first):
                first.send(True)
                self._state = receive_arrays(first), receive_arrays(first)
        return self._state

    def go_on(self) -> None:
        """Has the processes go on; where they were asked for their state, they do already."""
        if self._state is None:
            with self._talking(self.pipes[0]):
                self.pipes[0].send(False)

    def end(self) -> None:
        """Ends the processes at once, whatever they are at."""
        self._stack.close()

    def _start(self, place: Place) -> None:
        ours, theirs = _SPAWN.Pipe()
        with theirs:
            process = _SPAWN.Process(target=work, args=(self._job, place, theirs), daemon=True)
            process.start()
        self._processes[ours] = process

    def _kill(self) -> None:
        for pipe, process in self._processes.items():
            process.kill()
            process.join()
            pipe.close()
        self._processes = {}

    @contextmanager
    def _talking(self, pipe: Connection) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise self._lost(pipe) from error

    def _lost(self, pipe: Connection) -> WorkerLostError:
        process = self._processes[pipe]
        process.join()
        device = self._devices[self.pipes.index(pipe)]
        return WorkerLostError(
            f"{self.stage}: its process on {device} has ended (exit code {process.exitcode}), often for want of "
            "memory; asked again, the round goes on where it was kept"
        )


def reports(teams: Sequence[StageTeam]) -> Iterator[tuple[StageTeam, int, float]]:
    """Yields a team, an epoch that it has done and its loss, as they come, until all teams have been ended.

    Raises:
        Exception: as `StageTeam.report`.
    """
    while by_pipe := {pipe: team for team in teams for pipe in team.pipes}:
        for pipe in connection.wait(by_pipe):
            if isinstance(pipe, Connection) and pipe in by_pipe[pipe].pipes:  # not of a team that was ended just now
                yield (by_pipe[pipe], *by_pipe[pipe].report(pipe))
