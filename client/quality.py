"""Pre-flight checks of a site: its machine, its split, every case, and the cases against each other."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from client.case_check import CheckedCase, check_case, start_worker
from client.cohort_check import check_cohort, check_split
from client.finding import GRAVEST_LAST, Finding, Severity, gravest
from client.machine_check import check_machine
from client.site import Site
from client.worker_pool import num_workers, worker_pool
from common.dataset import CaseEntry, read_index
from common.errors import ConfigError, FedgtvError
from common.experiment import load_experiment
from common.recipe import Recipe
from common.settings import load_mapping, load_yaml
from common.split import SplitConfig

Progress = Callable[[int, int], None]
"""Hears how many cases are done, of how many."""
WORKER_BYTES = 2**30
"""What checking one large case takes, generously: 513 MiB were measured for 132 x 512 x 512."""
WORTH_PROCESSES = 8
"""From so many cases on, starting processes of a second or two each is made up for."""
ENDED = (
    "a process that checks cases was ended by the system, most likely for want of memory; close other programs, then "
    "check again"
)


@dataclass(frozen=True, eq=False)
class SiteCheck:
    """All that the check found."""

    findings: tuple[Finding, ...]
    """The gravest last; a case's own keep their order."""
    cases: tuple[CheckedCase, ...]

    def count(self, severity: Severity) -> int:
        """Returns the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def about(self, subject: str) -> tuple[Finding, ...]:
        """Returns the findings on a case or a part of the site."""
        return tuple(finding for finding in self.findings if finding.subject == subject)


def check_site(
    site: Site,
    split: SplitConfig,
    recipe: Recipe | None = None,
    further: Sequence[Finding] = (),
    progress: Progress | None = None,
) -> SiteCheck:
    """Returns findings on the site's machine, its split and every case, with a picture of each case.

    Args:
        site: whose cases; nothing is written there.
        split: parts the cases as an experiment with it would.
        recipe: what memory, disk and region of interest are held against; None: the paper's.
        further: findings on what lies between site and coordinator, to stand among the site's own.
        progress: hears of each case that is done.
    """
    recipe = recipe or Recipe()
    try:
        entries = read_index(site.cases_folder)
    except FedgtvError as error:
        entries, index = (), [Finding.of("error", "cases", "index", str(error), "run `fedgtv-site import`")]
    else:
        index = []
    cases = _check_cases(site.cases_folder, entries, recipe, progress or (lambda done, total: None))
    if not index:
        left_out = {case.case_id for case in cases if gravest(case.findings) == "error"}
        index += check_split(entries, split, site.work_folder, site.config.policy.min_cases, left_out)
    facts = [case.facts for case in cases if case.facts is not None]
    machine = check_machine(site.config.device_names, site.work_folder, facts, recipe)
    compared = tuple(check_cohort(cases))
    cases = tuple(_with(case, compared) for case in cases)
    of_all = [finding for finding in compared if finding.subject == "cases"]
    findings = [*machine, *further, *index, *of_all, *(finding for case in cases for finding in case.findings)]
    return SiteCheck(tuple(sorted(findings, key=lambda finding: GRAVEST_LAST.index(finding.severity))), cases)


def check_against(path: Path | None) -> tuple[Recipe, SplitConfig]:
    """Returns the recipe and split in an experiment's or a recipe's file; without a file the paper's recipe.

    Raises:
        ConfigError: it is neither, or the message tells what is wrong with it as the one that it looks like.
    """
    if path is None:
        return Recipe(), SplitConfig()
    keys = load_mapping(path).keys()
    if keys and keys.isdisjoint({*Recipe.model_fields, "steps"}):
        known = ", ".join(Recipe.model_fields)
        raise ConfigError(
            f"{path}: is neither a recipe nor an experiment, by its keys {', '.join(map(str, keys))}; expected some of "
            f"{known}, or steps; give the file that the coordinator sent"
        )
    if "steps" in keys:
        experiment = load_experiment(path)
        return experiment.recipe, experiment.split
    return load_yaml(path, Recipe), SplitConfig()


def _with(case: CheckedCase, compared: Sequence[Finding]) -> CheckedCase:
    """Returns the case with what comparing it with the others found; then what it is, is no longer `ok`."""
    own = tuple(finding for finding in compared if finding.subject == case.case_id)
    if not own:
        return case
    before = (replace(each, severity="info") if each.severity == "ok" else each for each in case.findings)
    return replace(case, findings=(*before, *own))


def _check_cases(
    folder: Path, entries: Sequence[CaseEntry], recipe: Recipe, progress: Progress
) -> tuple[CheckedCase, ...]:
    """Returns the cases in the index's order, checked in this process or, where they are many, one on each core."""
    checked: dict[str, CheckedCase] = {}
    progress(0, len(entries))
    for case in _checked(folder, entries, recipe):
        checked[case.case_id] = case
        progress(len(checked), len(entries))
    return tuple(checked[entry.case_id] for entry in entries)


def _checked(folder: Path, entries: Sequence[CaseEntry], recipe: Recipe) -> Iterator[CheckedCase]:
    """Gives the cases as they get done."""
    if len(entries) < WORTH_PROCESSES:
        yield from (check_case(folder, entry, recipe.preprocess, recipe.num_images) for entry in entries)
        return
    with worker_pool(num_workers(WORKER_BYTES), ENDED, start_worker) as pool:
        arguments = [(folder, entry, recipe.preprocess, recipe.num_images) for entry in entries]
        for job in as_completed([pool.submit(check_case, *each) for each in arguments]):
            yield job.result()
