"""Reading exported cases one by one or in several processes; outcomes come in the order of the jobs."""

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from client.case_store import write_case
from client.exports import ExportedCase
from client.import_report import unexpected
from client.target import Found
from client.worker_pool import num_workers, worker_pool
from common.errors import InputError
from common.site_config import IngestConfig

PROCESS_BYTES = 2**30
"""Memory that one process may take: 0.5 GiB for a CT of 512 x 512 x 130 with a second image of the same size."""
AHEAD = 4
"""Cases a process may be ahead of the oldest one that is not finished; they wait on disk."""
WORTH_PROCESSES_BYTES = 150_000_000
"""Two cases of 512 x 512 x 130: with less to read, starting processes (a second) takes longer than they save."""
Task = Literal["nothing", "list", "read", "write"]


@dataclass(frozen=True)
class Job:
    """What to do with a case."""

    case: ExportedCase
    config: IngestConfig
    task: Task
    """`nothing`; `list`: only find its target; `read`: all that an import does, without writing; `write`: into
    `folder`."""
    folder: Path
    """A new one."""


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a job."""

    found: Found
    refusal: str = ""
    """Why the case cannot be used; empty if it can."""
    num_images: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def run_job(job: Job) -> CaseOutcome:
    """Does a job; a case at fault is refused, and so is one that an error of ours keeps from being read.

    Raises:
        WorkError: the disk is full or not writable.
    """
    told = [Found()]
    try:
        if job.task == "nothing":
            return CaseOutcome(Found())
        if job.task == "list":
            job.case.find_target(job.config, told.append)
            return CaseOutcome(told[-1])
        loaded = job.case.load(job.config, told.append)
    except InputError as error:
        return CaseOutcome(told[-1], str(error))
    except Exception as error:  # one odd file must not keep all cases after it from being imported
        return CaseOutcome(told[-1], unexpected(error))
    if job.task == "write":
        write_case(loaded, job.folder)
    return CaseOutcome(told[-1], "", len(loaded.images), loaded.info, loaded.warnings)


def run_jobs(jobs: Sequence[Job], num_processes: int) -> Generator[CaseOutcome, None, None]:
    """Gives each job's outcome, in order; with one process, or one job, it is done in this one.

    Raises:
        WorkError: as `run_job`, or the system ended a process, mostly for want of memory.
    """
    num_processes = min(num_processes, sum(job.task != "nothing" for job in jobs))
    if num_processes <= 1:
        yield from map(run_job, jobs)
        return
    ended = (
        f"one of {num_processes} import processes was ended by the system, most likely for want of memory; import "
        "again with fewer --jobs: it goes on where it was"
    )
    waiting: deque[Future[CaseOutcome]] = deque()
    with worker_pool(num_processes, ended) as pool:
        for job in jobs:
            waiting.append(pool.submit(run_job, job))
            if len(waiting) > AHEAD * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def suitable_processes(jobs: Sequence[Job]) -> int:
    """Returns how many processes this machine has cores and free memory for, at least 1; 1 for little work."""
    files = (path for job in jobs if job.task in ("read", "write") for path in job.case.files)
    if sum(path.stat().st_size for path in files) < WORTH_PROCESSES_BYTES:
        return 1
    return num_workers(PROCESS_BYTES)
