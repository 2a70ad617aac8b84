"""The cases of several sites in one place, for `pooled` steps: one more worker of a simulation, in this very process.

Its index names all their cases; the files, and the prepared cases in its cache, are links to the sites' own. Its split
is the union of theirs: no case that tests at a site trains a pooled model.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from flwr.app import Context, Message

from client.cases import CACHE, OpenCase, open_cases
from client.site import Site
from client.splits import adopt_split
from common import wire
from common.atomic import write_text_atomically
from common.dataset import CaseEntry, write_index
from common.experiment import Experiment
from common.private import private_folder
from common.settings import fingerprint, load_yaml
from common.shortage import explained
from common.site_config import SiteConfig
from common.steps import PooledStep

FOLDER = ".pooled"
"""Beside the sites' folders; no site's name begins with a dot."""
App = Callable[[Message, Context], Message]
log = logging.getLogger("fedgtv.simulate")


@dataclass
class Pool:
    """Where the cases of `members` lie together."""

    config: Path
    """Its `site.yaml`."""
    members: Mapping[str, Path]
    """Each site's `site.yaml`."""
    _filled: set[str] = field(default_factory=set)

    def fill(self, task: wire.Task) -> None:
        """Brings in the cases as they are prepared for the task, each in the part that its own site gave it.

        Raises:
            InputError: a site's index or split is damaged, or two sites have a case of one name.
        """
        key = fingerprint(task.recipe, task.split)
        if key in self._filled:
            return
        pool, entries = Site.open(self.config), list[CaseEntry]()
        links: dict[Path, Path] = {}
        for name, config in self.members.items():
            site = Site.open(config)
            opened = open_cases(site.cases_folder, site.work_folder, task.recipe, task.split)
            adopt_split(task.split, site.work_folder, pool.work_folder, prefix=f"{name}/")
            for case in (*opened.train, *opened.validation, *opened.test):
                entries.append(_entry(case, name))
                links |= _links(case, site, pool)
        write_index(pool.cases_folder, entries)
        for link, target in links.items():
            _point(link, target)
        self._filled.add(key)


def _entry(case: OpenCase, site: str) -> CaseEntry:
    """The case as the pool lists it; patients of two sites are never the same one."""
    entry = case.cached.entry
    return replace(entry, patient_id=f"{site}/{entry.patient_id}")


def _links(case: OpenCase, site: Site, pool: Site) -> dict[Path, Path]:
    """Where the pool's links to a case's files and to what is prepared of it lie, and where they lead."""
    entry, prepared = case.cached.entry, case.cached.folder
    names = (*entry.images, *([entry.label] if entry.label is not None else []))
    links = {pool.cases_folder / name: site.cases_folder / name for name in names}
    in_cache = prepared.relative_to(site.work_folder / CACHE)
    return links | {pool.work_folder / CACHE / in_cache: prepared}


def _point(link: Path, target: Path) -> None:
    private_folder(link.parent)
    if not (link.is_symlink() and link.exists() and link.samefile(target)):
        link.unlink(missing_ok=True)
        os.symlink(target.resolve(), link)


def make_pools(experiment: Experiment, configs: Mapping[str, Path], folder: Path) -> dict[str, Pool]:
    """Returns the place of each `pooled` step's cases, by the step's model; its `site.yaml` is written anew.

    Args:
        experiment: whose steps.
        configs: each site's `site.yaml`.
        folder: where the sites' folders lie.
    """
    return {
        step.model: _make_pool(step, experiment.sites_of(step), configs, folder / FOLDER / step.model)
        for step in experiment.steps
        if isinstance(step, PooledStep)
    }


def _make_pool(step: PooledStep, sites: Sequence[str], configs: Mapping[str, Path], folder: Path) -> Pool:
    members = {site: configs[site] for site in sites}
    first = load_yaml(members[sites[0]], SiteConfig)
    name = sites[0] if len(sites) == 1 else step.model  # patches are drawn by it: one site pools to what it is alone
    config = first.model_copy(update={"site": name})
    path = private_folder(folder) / "site.yaml"
    write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return Pool(path, members)


def with_pools(app: App, pools: Mapping[str, Pool]) -> App:
    """Returns `app`, for which the pools' cases are there when one of them is asked; a fault is told by its code."""

    def answer(message: Message, context: Context) -> Message:
        pool = pools.get(str(context.node_config["site"]))
        try:
            if pool is not None:
                pool.fill(wire.read_any_task(message))
        except Exception as raised:
            fault = explained(raised)
            log.exception("the cases cannot be brought together: %s", fault)
            return Message(wire.error_reply(fault), reply_to=message)
        return app(message, context)

    return answer
