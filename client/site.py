"""A site's own work on its own cases: counts, training, measuring. Flower-free; `client/app.py` calls it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.case_guard import check_still_here, on_cases_that_stay
from client.cases import OWN, Cases, OpenCase, open_cases
from client.comparing import compare
from client.comparison_policy import limit_comparison
from client.data_digest import data_digest
from client.device_groups import Groups, device_groups, num_processes
from client.drawing import draw
from client.kept_results import RESULTS, KeptResults
from client.local_layers import last_layers, load_layers, save_layers
from client.measuring import LoadedModel, measure
from client.policy import NO_PICTURES, Withheld, keeping, local_names
from client.progress import Progress
from client.round_checkpoint import RoundCheckpoint, round_key
from client.site_round import SiteRound, where
from client.splits import adopt_split
from common.checkpoint import Weights
from common.device import choose_device
from common.digest import model_digest, weights_digest
from common.errors import NoCasesError
from common.model import model_weights
from common.recipe import Recipe
from common.settings import load_yaml
from common.site_config import SiteConfig
from common.statistics import body_histogram
from common.tasks import (
    CompareResult,
    CompareTask,
    EvaluateResult,
    EvaluateTask,
    ModelSummary,
    Picture,
    PictureResult,
    PictureTask,
    SiteStatistics,
    SiteTask,
    StatisticsTask,
    TrainResult,
    TrainTask,
)
from common.text import counted

log = logging.getLogger("fedgtv.site")
CPU = torch.device("cpu")


class Site:
    """One hospital: its configuration, its cases and its device."""

    def __init__(self, config: SiteConfig, folder: Path) -> None:
        """Relative paths of `config` start at `folder`."""
        self.config = config
        self.cases_folder = folder / config.cases
        self.work_folder = self.prepared_folder = folder / config.work
        self.state_folder = folder / config.state
        self.told_folder: Path | None = self.work_folder
        """Where the work tells how far it is; None: it does not, for nobody asks."""

    @classmethod
    def open(cls, path: Path) -> "Site":
        """Returns the site that `site.yaml` at `path` describes (ConfigError: the file is not valid)."""
        return cls(load_yaml(path, SiteConfig), path.parent)

    def for_own_eyes(self) -> "Site":
        """Returns the site without a least number of cases, for results that do not leave.

        Where another account trains, cases are prepared anew in a folder that it cannot reach: it could put links into
        its own, and this account would follow them.
        """
        policy = self.config.policy.model_copy(update={"min_cases": 1})
        site = Site(self.config.model_copy(update={"policy": policy}), Path())
        site.cases_folder, site.state_folder = self.cases_folder, self.state_folder
        site.work_folder = site.prepared_folder = self.work_folder
        if self.config.worker is not None:
            site.prepared_folder = self.state_folder / OWN
        site.told_folder = None
        return site

    def device(self) -> torch.device:
        """Returns the configured device, of several the first, and sets the number of CPU threads."""
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        return choose_device(self.config.device_names[0])

    def groups(self, recipe: Recipe) -> Groups:
        """Returns the devices that train each stage at the same time; none for a site of one device.

        Raises:
            ConfigError: a configured device is not here.
        """
        for name in self.config.devices:
            choose_device(name)
        return device_groups(recipe, self.config.devices)

    def open_cases(self, task: SiteTask) -> Cases:
        """Returns the cases as the task's recipe prepares and its split parts them."""
        if self.prepared_folder != self.work_folder:
            adopt_split(task.split, self.work_folder, self.prepared_folder)
        return open_cases(self.cases_folder, self.prepared_folder, task.recipe, task.split)

    def statistics(self, task: StatisticsTask) -> tuple[SiteStatistics, NDArray[np.int64] | None]:
        """Returns case counts and the HU histogram of the training cases' body voxels.

        The histogram is None when the site has fewer training cases than its policy's `min_cases`; a fold's also when
        fewer test in it, for a fold and the whole differ by those alone.
        """
        progress = Progress(self.told_folder, task)

        def work(cases: Cases) -> tuple[SiteStatistics, NDArray[np.int64] | None]:
            done = self._statistics(task, cases, progress.seconds)
            check_still_here(self.cases_folder, (*cases.train, *cases.validation, *cases.test))
            return done

        done = on_cases_that_stay(self.cases_folder, lambda: self.open_cases(task), work)
        progress.say("sending")
        return done

    def _statistics(
        self, task: StatisticsTask, cases: Cases, seconds: Callable[[], float]
    ) -> tuple[SiteStatistics, NDArray[np.int64] | None]:
        fewest = min(len(cases.train), len(cases.test)) if task.split.fold else len(cases.train)
        enough = fewest >= self.config.policy.min_cases
        histogram = body_histogram([case.cached for case in cases.train]).to_array() if enough else None
        result = SiteStatistics(
            digest=data_digest(cases, self.config.policy) if enough else None,
            train=len(cases.train),
            validation=len(cases.validation),
            test=len(cases.test),
            refused=cases.num_refused,
            seconds=seconds(),
        )
        counts = (result.train, result.validation, result.test, result.refused)
        log.info("statistics: %d cases to train, %d to validate, %d to test, %d refused", *counts)
        return result, histogram

    def train(self, task: TrainTask, weights: Weights) -> tuple[Weights, TrainResult]:
        """Trains every stage for the task's epochs; returns the new weights and what happened.

        A round that was begun here before goes on after the last epoch that was kept; one that was done is answered
        by what came of it. A case that is taken out meanwhile makes it begin anew, without that case.

        Raises:
            NoCasesError: no training case is left.
            WorkError: the training diverges.
            CheckpointError: the weights are another network's.
        """
        progress, device = Progress(self.told_folder, task), self.device()

        def work(cases: Cases) -> tuple[Weights, TrainResult]:
            return self._train(task, weights, cases, device, progress)

        done = on_cases_that_stay(self.cases_folder, lambda: self.open_cases(task), work)
        progress.say("sending")
        return done

    def _train(
        self, task: TrainTask, weights: Weights, cases: Cases, device: torch.device, progress: Progress
    ) -> tuple[Weights, TrainResult]:
        if not cases.train:
            raise NoCasesError(f"site {self.config.site}: no training case is left; import cases, then run `check`")
        local = local_names(keeping(self.config.policy, task), {name: each.shape for name, each in weights.items()})
        if local:
            weights = weights | load_layers(self.work_folder, task, local)
        used = (*cases.train, *(cases.validation if task.validate_received else ()))
        kept = self._checkpoint(task, weights, used)
        done = kept.result()
        if done is not None:
            log.info("%s: was done here before; its result is sent again", where(task))
            return done
        groups = self.groups(task.recipe)
        model = LoadedModel.of(task, weights, CPU if groups else device)

        def load() -> LoadedModel:
            return LoadedModel.of(task, weights, device) if groups else model

        def on_epoch(epochs_done: int) -> None:
            progress.say("training", epochs_done)
            check_still_here(self.cases_folder, used)

        training = SiteRound(
            self.config.site, self.work_folder, task, model, [case.cached for case in cases.train], kept,
            partial(self._validation_dsc, load, cases.validation, task, progress), on_epoch, groups,
            self.config.num_threads or max(1, torch.get_num_threads() // num_processes(groups)),
        )  # fmt: skip
        trained, result = self._trained(training, cases, progress)
        if local:
            save_layers(self.work_folder, task, {name: trained[name] for name in local})
        check_still_here(self.cases_folder, used)
        kept.finish(trained, result)
        log.info("%s: done in %.0f s", where(task), result.seconds)
        return trained, result

    def _checkpoint(self, task: TrainTask, weights: Weights, used: Sequence[OpenCase]) -> RoundCheckpoint:
        """What is kept of this very round: of this task, these weights, and these cases as they are now."""
        mine: list[str | int] = [self.config.site, self.config.policy.min_cases]
        key = round_key(task, weights, mine + [case.cached.folder.name for case in used])
        return RoundCheckpoint(self.work_folder, key, self.config.checkpoint_s)

    @staticmethod
    def _trained(training: SiteRound, cases: Cases, progress: Progress) -> tuple[Weights, TrainResult]:
        task = training.task
        epochs = (task.epochs_done + 1, task.epochs_done + task.local_epochs, task.epochs_total)
        log.info("%s: %d cases, epochs %d to %d of %d", where(task), len(cases.train), *epochs)
        progress.say("training")
        training.run()
        validated = training.validation_dsc is not None
        result = TrainResult(
            model=task.model,
            round=task.round,
            num_examples=len(cases.train),
            epochs=training.epoch_records(),
            validation_dsc=training.validation_dsc,
            num_validated=len(cases.validation) if validated else 0,
            seconds=training.seconds,
        )
        return model_weights(training.model.networks), result

    def _validation_dsc(
        self, load: Callable[[], LoadedModel], cases: Sequence[OpenCase], task: TrainTask, progress: Progress
    ) -> float | None:
        """Mean DSC; None where it is not asked for, or for fewer cases than the policy's `min_cases`."""
        if not task.validate_received or len(cases) < self.config.policy.min_cases:
            return None
        progress.say("validating")
        dsc = float(np.mean([metrics.dsc for metrics in measure(load, cases).metrics]))
        if self.config.devices:
            torch.cuda.empty_cache()  # other processes train there
        log.info("%s: the received model's mean DSC on %d validation cases is %.3f", where(task), len(cases), dsc)
        progress.say("training")
        return dsc

    def evaluate(self, task: EvaluateTask, models: Mapping[str, Weights]) -> tuple[EvaluateResult, list[Picture]]:
        """Measures each model on the original grids of one part; pictures, of the first model, only by policy."""
        progress, device = Progress(self.told_folder, task), self.device()

        def work(cases: Cases) -> tuple[EvaluateResult, list[Picture]]:
            done = self._evaluate(task, models, cases, device, progress)
            check_still_here(self.cases_folder, cases.test if task.part == "test" else cases.validation)
            return done

        done = on_cases_that_stay(self.cases_folder, lambda: self.open_cases(task), work)
        progress.say("sending")
        return done

    def _evaluate(
        self,
        task: EvaluateTask,
        models: Mapping[str, Weights],
        cases: Cases,
        device: torch.device,
        progress: Progress,
    ) -> tuple[EvaluateResult, list[Picture]]:
        policy = self.config.policy
        part = cases.test if task.part == "test" else cases.validation
        few = len(part) < policy.min_cases
        if few and not (task.split.fold and part):
            return self._too_few(part, progress), []
        progress.say("evaluating")
        summaries: dict[str, ModelSummary] = {}
        pictures: list[Picture] = []
        for name in task.models:
            num_pictures = task.pictures if policy.share_pictures and not summaries else 0
            title = f"{self.config.site}, {name}, {task.part} case"
            log.info("evaluation: %s on %d %s cases", name, len(part), task.part)
            mine = last_layers(self.work_folder, task.experiment, name, models[name])
            load = partial(LoadedModel.of, task, models[name] | mine, device)
            kept = self._kept(model_digest(models[name], task.recipe, task.normalisation), mine)
            measured = measure(load, part, kept, num_pictures, title)
            mean = np.mean([metrics.dsc for metrics in measured.metrics])
            log.info("evaluation: %s has a mean DSC of %.3f", name, mean)
            summaries[name] = measured.summary(policy.min_cases)
            pictures += measured.pictures
        if few:
            return self._too_few(part, progress), []
        return EvaluateResult(summaries=summaries, seconds=progress.seconds()), pictures

    def _too_few(self, part: Sequence[OpenCase], progress: Progress) -> EvaluateResult:
        """What is told of fewer cases than `min_cases`; a fold's are measured, and told with the others'."""
        reason = f"{counted(len(part), 'case')}, fewer than the site's min_cases {self.config.policy.min_cases}"
        log.info("evaluation: withheld, %s", reason)
        return EvaluateResult(summaries={}, withheld=reason, seconds=progress.seconds())

    def _kept(self, digest: str, mine: Weights) -> KeptResults:
        return KeptResults(self.prepared_folder / RESULTS, digest, weights_digest(mine))

    def compare(self, task: CompareTask) -> CompareResult:
        """Returns how the kept results of the task's rows are spread and differ, as far as the policy lets it be told.

        Raises:
            NoResultsError: a case of a row was not measured with its model, or is another by now.
        """
        progress = Progress(self.told_folder, task)
        progress.say("evaluating")

        def work(cases: Cases) -> CompareResult:
            done = compare(task, self.prepared_folder / RESULTS, cases_of, progress.seconds)
            check_still_here(self.cases_folder, part_of(cases))
            return limit_comparison(self.config.policy, task, done, Withheld())

        def part_of(cases: Cases) -> tuple[OpenCase, ...]:
            return cases.test if task.part == "test" else cases.validation

        def cases_of(fold: int) -> tuple[OpenCase, ...]:
            return part_of(self.open_cases(task.of_fold(fold)))

        return on_cases_that_stay(self.cases_folder, lambda: self.open_cases(task), work)

    def draw(self, task: PictureTask, models: Mapping[str, Weights]) -> tuple[PictureResult, list[bytes]]:
        """Draws the test cases that the task asks for, where the policy lets pictures leave; else says why not."""
        progress, device = Progress(self.told_folder, task), self.device()

        def mine(name: str) -> Weights:
            return last_layers(self.work_folder, task.experiment, name, models[name])

        def load(name: str) -> LoadedModel:
            return LoadedModel.of(task.of(name), models[name] | mine(name), device)

        def work(cases: Cases) -> tuple[PictureResult, list[bytes]]:
            withheld, num_cases = self._why_no_pictures(len(cases.test)), len(cases.test)
            if withheld:
                log.info("pictures: none, %s", withheld)
                return PictureResult(n=num_cases, withheld=withheld, seconds=progress.seconds()), []
            progress.say("evaluating")
            tells_dsc = self.config.policy.share_case_metrics
            first = task.models[0]
            kept = self._kept(model_digest(models[first], task.of(first).recipe, task.normalisation), mine(first))
            drawn = list(draw(self.config.site, task, cases.test, load, kept, tells_dsc))
            check_still_here(self.cases_folder, cases.test)
            log.info("pictures: %d drawn of %d test cases, by %s", len(drawn), num_cases, ", ".join(task.models))
            told = tuple(each for each, _ in drawn)
            return PictureResult(n=num_cases, drawings=told, seconds=progress.seconds()), [png for _, png in drawn]

        done = on_cases_that_stay(self.cases_folder, lambda: self.open_cases(task), work)
        progress.say("sending")
        return done

    def _why_no_pictures(self, num_cases: int) -> str | None:
        policy = self.config.policy
        if not policy.share_pictures:
            return NO_PICTURES
        if num_cases < policy.min_cases:
            return f"{counted(num_cases, 'case')}, fewer than the site's min_cases {policy.min_cases}"
        return None
