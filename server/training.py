"""Training steps: cohorts of sites, their rounds, each on disk before the next, and the round that is kept.

A federated model has one cohort of all the step's sites; a `local` or `finetune` step has a cohort of one for each
site, and a `pooled` step one of the place where all sites' cases lie together. The cohorts of a step work at the same
time, its folds one after the other.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Message

from common.checkpoint import Weights
from common.errors import CheckpointError
from common.experiment import RoundConfig
from common.model import build_model, model_weights
from common.settings import fingerprint
from common.split import fold_model, fold_of
from common.steps import LocalStep, PooledStep, TrainingStep, TrainStep
from common.tasks import TrainResult, TrainTask
from server.evaluation import measure
from server.ledger_file import Record
from server.model_key import find_earlier, model_key
from server.relay import hop_timeout_s, pass_on
from server.rounds import Late, Outcome, Round
from server.run import Run
from server.sites import arrivals
from server.spool import Spool, weights_key
from server.strategy import Strategy


@dataclass
class Cohort:
    """Sites that train one model together."""

    model: str
    sites: tuple[str, ...]
    """Who is asked."""
    strategy: Strategy
    weights: Weights
    validation: dict[int, float] = field(default_factory=dict)
    """Mean validation DSC by round; round 0 is what the step started from."""
    late: dict[str, Late] = field(default_factory=dict)
    """Sites that were still at work when a round closed, and are let finish."""
    pooled: tuple[str, ...] = ()
    """The sites whose cases lie together at the one that is asked; none: everyone trains on its own."""

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The sites whose cases train the model."""
        return self.pooled or self.sites

    def note_validation(self, number: int, scores: Iterable[float | None]) -> None:
        """Keeps the mean over the sites that know a score of round `number`'s weights."""
        known = [score for score in scores if score is not None]
        if known:
            self.validation[number] = float(np.mean(known))

    @property
    def best(self) -> int | None:
        """The round with the best validation DSC so far, of equals the later; None where no site knows one."""
        scores = {number: score for number, score in self.validation.items() if number > 0}
        return max(scores, key=lambda number: (scores[number], number)) if scores else None


def train(run: Run, number: int, step: TrainingStep) -> None:
    """Does the step's rounds from where the ledger left them, and writes the models that it makes; fold by fold.

    A model that is finished is passed over, one that was made in the same way before is copied.

    Raises:
        WorkError: a round failed, or the disk is too full for the next.
        ConfigError: the strategy does not take the step's options.
    """
    for fold in run.experiment.folds_of(step.model) or (0,):
        cohorts = [each for each in make_cohorts(run, step, fold) if not (_is_made(run, each) or _copied(run, each))]
        if not cohorts:
            continue
        for current in range(_restore(run, step, cohorts) + 1, step.rounds + 1):
            _do_round(run, number, step, cohorts, current)
        for cohort in cohorts:
            _choose(run, step, cohort)


def make_cohorts(run: Run, step: TrainingStep, fold: int = 0) -> list[Cohort]:
    """Returns the step's cohorts for a fold (0: the plain split), all with the weights that it starts from."""
    sites = run.experiment.sites_of(step)
    start = _initial(run, step, fold)
    models = [fold_model(model, fold) for model in run.experiment.results_of(step)]
    if isinstance(step, TrainStep):
        return [Cohort(models[0], sites, Strategy(step.strategy, step.strategy_options), start)]
    if isinstance(step, PooledStep):
        return [Cohort(models[0], (step.model,), Strategy("fedavg"), start, pooled=sites)]
    return [Cohort(model, (site,), Strategy("fedavg"), start) for model, site in zip(models, sites, strict=True)]


def _is_made(run: Run, cohort: Cohort) -> bool:
    """Whether the model is finished, and its file whole."""
    if not run.ledger.find("model", model=cohort.model):
        return False
    try:
        run.ledger.load_model(cohort.model)
    except CheckpointError:
        return False
    return True


def _copied(run: Run, cohort: Cohort) -> bool:
    """Takes a model of the same key, of this run or one beside it, in place of training; not of one under way."""
    if _lines(run, cohort.model):
        return False
    earlier = find_earlier(run, cohort.model, model_key(run, cohort.model))
    weights = earlier.load() if earlier else None
    if earlier is None or weights is None:
        return False
    _keep(run, cohort, weights, earlier.line["round"], earlier.line.get("validation_dsc"), earlier.origin)
    return True


def _keep(
    run: Run, cohort: Cohort, weights: Weights, chosen: int, validation_dsc: float | None, reused: str | None = None
) -> None:
    """Writes a finished model, then its line."""
    run.ledger.save_model(cohort.model, weights, run.metadata(cohort.model, chosen, cohort.trained_on))
    run.ledger.append(
        {
            "kind": "model",
            "model": cohort.model,
            "round": chosen,
            "validation_dsc": validation_dsc,
            "key": model_key(run, cohort.model),
            "reused": reused,
        }
    )


def _initial(run: Run, step: TrainingStep, fold: int) -> Weights:
    initial = _initial_model(step)
    if initial:
        return run.ledger.load_model(fold_model(initial, fold if run.experiment.folds_of(initial) else 0))
    return model_weights(build_model(run.experiment.recipe_of(step.model), run.experiment.seed))


def _initial_model(step: TrainingStep) -> str | None:
    """Name of the model that the step starts from; None: fresh weights."""
    return None if isinstance(step, LocalStep) else step.initial


def _restore(run: Run, step: TrainingStep, cohorts: Sequence[Cohort]) -> int:
    """Takes the last round from the ledger that every cohort has whole, and returns its number; 0: none.

    A round whose file cannot be read is done again, from the one before.
    """
    lines = {cohort.model: _lines(run, cohort.model) for cohort in cohorts}
    whole = set.intersection(*(set(found) for found in lines.values()))
    done = next((number for number in sorted(whole, reverse=True) if _take_up(run, cohorts, number)), 0)
    for cohort in cohorts:
        for number in sorted(number for number in lines[cohort.model] if number <= done):
            told = lines[cohort.model][number]["sites"].values()
            cohort.note_validation(number - 1, [each["validation_dsc"] for each in told])
    return done


def _lines(run: Run, model: str) -> dict[int, Record]:
    """The model's rounds; of one that was done twice, the later line."""
    return {line["round"]: line for line in run.ledger.find("round", model=model)}


def _take_up(run: Run, cohorts: Sequence[Cohort], number: int) -> bool:
    """Takes round `number` for all cohorts, or for none where a file cannot be read."""
    loaded: list[tuple[Weights, Weights | None]] = []
    for cohort in cohorts:
        try:
            state = run.ledger.load_state(cohort.model, number) if cohort.strategy.keeps_state else None
            loaded.append((run.ledger.load_round(cohort.model, number), state))
        except CheckpointError as error:
            run.sites.watch.note(f"round {number} of {cohort.model} is done again: {error}")
            return False
    for cohort, (weights, state) in zip(cohorts, loaded, strict=True):
        cohort.weights = weights
        if state is not None:
            cohort.strategy.restore(state)
    return True


def _do_round(run: Run, number: int, step: TrainingStep, cohorts: Sequence[Cohort], current: int) -> None:
    started = time.monotonic()
    run.ledger.check_space([cohort.weights for cohort in cohorts], max(len(cohort.sites) for cohort in cohorts))
    run.sites.watch.begin(step=number, what=step.kind, model=step.model, round=current, rounds=step.rounds)
    outcomes = _outcomes(run, number, step, cohorts, current)
    for cohort in cohorts:
        outcome = outcomes[cohort.model]
        cohort.weights = outcome.weights
        cohort.note_validation(current - 1, [_validation(result, current) for result in outcome.results.values()])
        metadata = run.metadata(cohort.model, current, cohort.trained_on)
        run.ledger.save_round(cohort.model, current, cohort.weights, metadata, cohort.strategy.state())
        run.ledger.append(_line(number, step, cohort.model, current, outcome, time.monotonic() - started))
    for cohort in cohorts:  # none before: a round that a cohort lacks is done again by all, from what lies here
        Spool(run.ledger.spool_folder(cohort.model), "").clear()
        if run.experiment.rounds.keep_rounds == "last":
            run.ledger.prune(cohort.model, {current - 1, current, cohort.best or 0})


def _outcomes(run: Run, number: int, step: TrainingStep, cohorts: Sequence[Cohort], current: int) -> dict[str, Outcome]:
    """What the round makes of each cohort's model."""
    if cohorts[0].strategy.goes_round:
        return {cohort.model: _go_round(run, number, step, cohort, current) for cohort in cohorts}
    rounds = {cohort.model: _open_round(run, number, step, cohort, current) for cohort in cohorts}
    _gather(run, cohorts, rounds)
    return {cohort.model: rounds[cohort.model].close(cohort.strategy) for cohort in cohorts}


def _go_round(run: Run, number: int, step: TrainingStep, cohort: Cohort, current: int) -> Outcome:
    """The model goes from site to site; all measure it before, so that its scores mean what those of others do."""
    config, lines = run.experiment.rounds, _lines(run, cohort.model)
    scores = _scores(run, number, step, cohort, current)

    def open_hop(site: str, weights: Weights, before_s: Sequence[float] | None) -> Round:
        told = [lines[each]["sites"].get(site) for each in sorted(lines) if each < current]
        own_s = [float(each["seconds"]) for each in told if each]
        limit_s = config.timeout_s if before_s is None else hop_timeout_s(config, own_s or before_s)
        hop = replace(cohort, sites=(site,), weights=weights)
        return _open_round(run, number, step, hop, current, config.model_copy(update={"timeout_s": limit_s}))

    def ask(hop: Round) -> None:
        _gather(run, [replace(cohort, sites=tuple(hop.sites), weights=hop.sent)], {cohort.model: hop})

    quorum = min(config.quorum or len(cohort.sites), len(cohort.sites))
    outcome = pass_on(cohort.sites, quorum, cohort.weights, cohort.strategy, open_hop, ask)
    results = {
        site: result.model_copy(update={"validation_dsc": scores.get(site)}) for site, result in outcome.results.items()
    }
    return replace(outcome, results=results)


def _scores(run: Run, number: int, step: TrainingStep, cohort: Cohort, current: int) -> Mapping[str, float]:
    """The validation DSC, by site, of the weights that a round begins with, where it tells something."""
    task = _task(run, number, step, cohort.model, current)
    if not task.validate_received:
        return {}
    spool = Spool(run.ledger.spool_folder(cohort.model), fingerprint(task, weights_key(cohort.weights)))
    kept = spool.scores()
    if kept is not None:
        return kept
    known = {site: score for site, score in _validated(run, cohort).items() if score is not None}
    spool.put_scores(known)
    return known


def _open_round(
    run: Run, number: int, step: TrainingStep, cohort: Cohort, current: int, config: RoundConfig | None = None
) -> Round:
    """`config`: instead of the experiment's."""
    config = config or run.experiment.rounds
    task = _task(run, number, step, cohort.model, current)
    if cohort.strategy.local_layers:
        task = task.model_copy(update={"local_layers": cohort.strategy.local_layers})
    if cohort.strategy.goes_round:
        task = task.model_copy(update={"validate_received": False})  # it would measure what is on its way
    lines = _lines(run, cohort.model)
    last = lines.get(current - 1, {"sites": {}})["sites"].values()
    return Round(
        task,
        cohort.weights,
        cohort.sites,
        min(config.quorum or len(cohort.sites), len(cohort.sites)),
        config,
        Spool(run.ledger.spool_folder(cohort.model), fingerprint(task, weights_key(cohort.weights))),
        run.sites.watch,
        run.num_cases(fold_of(cohort.model)),
        [float(lines[each].get("answered_s") or lines[each]["seconds"]) for each in sorted(lines) if each < current],
        [told["norm"] for told in last if "norm" in told],  # a run of an earlier release has none
        dict(cohort.late),
    )


def _gather(run: Run, cohorts: Sequence[Cohort], rounds: dict[str, Round]) -> None:
    """Sends the open sites their task and hands what comes to their round, until all is in or no round waits on."""
    messages: dict[str, Message] = {}
    for cohort in cohorts:
        under_way = rounds[cohort.model]
        asked = [site for site in under_way.open_sites if site not in cohort.late]
        if asked:  # Flower would wait for ever for a first site
            messages |= run.sites.train_messages(cohort.strategy.flower, under_way.task, cohort.weights, asked)
        cohort.strategy.begin(cohort.weights)
    earlier = {name: site for cohort in cohorts for site, late in cohort.late.items() for name in late.message_ids}
    waiting = run.sites.send(messages, earlier)
    round_of = {site: rounds[cohort.model] for cohort in cohorts for site in cohort.sites}
    for site, reply in arrivals(waiting, lambda: max(each.deadline for each in rounds.values())):
        round_of[site].take(site, reply)
        del reply  # before the next one comes
    if run.experiment.rounds.stragglers == "next":
        for cohort in cohorts:
            cohort.late = _late(cohort, rounds[cohort.model], waiting.outstanding())


def _late(cohort: Cohort, under_way: Round, outstanding: dict[str, str]) -> dict[str, Late]:
    """Who is let finish: what each was sent in this round, or before it."""
    names: dict[str, tuple[str, ...]] = {}
    for name, site in outstanding.items():
        if site in cohort.sites:
            names[site] = (*names.get(site, ()), name)
    return {site: cohort.late.get(site) or Late(each, under_way.task, under_way.sent) for site, each in names.items()}


def _validation(result: TrainResult, current: int) -> float | None:
    """The validation DSC of the weights that round `current` sent out; a late site has measured earlier ones."""
    return result.validation_dsc if result.round == current else None


def _task(run: Run, number: int, step: TrainingStep, model: str, current: int) -> TrainTask:
    experiment, fold = run.experiment, fold_of(model)
    recipe = experiment.recipe_of(model)
    return TrainTask(
        experiment=experiment.name,
        recipe=recipe,
        split=experiment.split_of(fold),
        model=model,
        step=number,
        round=current,
        epochs_done=(current - 1) * step.local_epochs,
        local_epochs=step.local_epochs,
        epochs_total=step.epochs,
        lr0=step.lr0 or recipe.training.lr0,
        seed=experiment.seed,
        normalisation=run.normalisation(fold),
        validate_received=current > 1 or (_initial_model(step) is not None and step.rounds > 1),
        transport=experiment.rounds.transport,
    )


def _line(
    number: int, step: TrainingStep, model: str, current: int, outcome: Outcome, seconds: float
) -> dict[str, Any]:
    return {
        "kind": "round",
        "step": number,
        "model": model,
        "round": current,
        "rounds": step.rounds,
        "sites": {
            site: _told(result, outcome.norms[site], current) for site, result in sorted(outcome.results.items())
        },
        "dropped": outcome.dropped,
        "answered_s": round(outcome.answered_s, 1),
        "seconds": round(seconds, 1),
    }


def _told(result: TrainResult, norm: float, current: int) -> dict[str, Any]:
    return {
        "cases": result.num_examples,
        "epochs": [{"epoch": each.epoch, "lr": each.lr, **each.losses} for each in result.epochs],
        "validation_dsc": _validation(result, current),
        "norm": norm,
        "seconds": round(result.seconds, 1),
        **({"local_layers": len(result.local_layers)} if result.local_layers else {}),
    }


def _choose(run: Run, step: TrainingStep, cohort: Cohort) -> None:
    """Keeps the last round's model, or the one with the best validation DSC (never chosen by test cases).

    Of equals the later round is kept; where no site knows a validation DSC, the last.
    """
    chosen = step.rounds
    if step.select == "best":
        cohort.note_validation(step.rounds, _validated(run, cohort).values())
        chosen = cohort.best or step.rounds
    weights = cohort.weights if chosen == step.rounds else run.ledger.load_round(cohort.model, chosen)
    _keep(run, cohort, weights, chosen, cohort.validation.get(chosen))


def _validated(run: Run, cohort: Cohort) -> dict[str, float | None]:
    """Returns the validation DSC of the cohort's present weights at the sites that may tell it."""
    results, _ = measure(run, {cohort.model: cohort.weights}, cohort.sites, "validation")
    return {
        site: result.summaries[cohort.model].metrics["dsc"].mean
        for site, result in results.items()
        if not result.withheld
    }
