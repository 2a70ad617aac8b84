"""What a run lets one say, in sentences: federated against local-only and pooled, fine-tuned against what it came from.

Where the sites have compared two models on the same cases, a difference is that of these pairs, with interval and p of
the paired t-test, corrected by Holm where the ledger has such a line. Where they have not, as in an older ledger, it
stands beside its unpaired standard error from the cases' SD: cautious, for the same cases stand on both sides. Where a
model is chosen by the very score it is compared with, the sentence says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import fmean

from common.experiment import Experiment
from common.paired_tests import Moments, PairedT, mean_of_sites, paired_t, pooled
from common.steps import FinetuneStep, LocalStep, PooledStep, TrainStep
from common.text import counted
from server.comparison_tables import ALPHA, comparison_sentences, show_p
from server.matrix import Matrix
from server.metric import METRIC, NONE, signed
from server.run_record import ComparisonLine

DSC = METRIC["dsc"]
MANY_EMPTY = 0.1
"""[C] Beyond this share of empty predictions the report begins with them."""
ONE_TRAINING = (
    "The tests are about these trained models and further cases like these. What training with another seed gives, and "
    "what holds at hospitals that were not measured, cannot be concluded from them."
)


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model comes from."""

    kind: str
    """`federated`, `local` (one site's cases only), `finetuned`, or `pooled` (the sites' cases in one place)."""
    site: str | None
    """The one site it was trained or fine-tuned on; None when federated or pooled."""
    initial: str | None
    """The model it was fine-tuned, or begun, from."""
    description: str
    sites: tuple[str, ...] = ()
    """Whose cases trained it, where it is of several sites."""


@dataclass(frozen=True)
class Paired:
    """What the paired t-test says of a difference, in per cent points."""

    n: int
    """Cases that both models were measured on."""
    test: PairedT | None
    """None: one pair, or differences that are all the same."""
    holm_p: float | None = None
    """None: there is no line of these very models and sites, so p is not corrected."""
    wilcoxon_p: float | None = None
    """Of the same line."""

    @property
    def is_clear(self) -> bool:
        """Whether p, corrected where it can be, is below 0.05, and the rank test's too where it is known."""
        return self._is_clear_by_t and not self._ranks_disagree

    @property
    def _is_clear_by_t(self) -> bool:
        if self.test is None:
            return False
        return (self.test.p if self.holm_p is None else self.holm_p) < ALPHA

    @property
    def _ranks_disagree(self) -> bool:
        return self._is_clear_by_t and self.wilcoxon_p is not None and self.wilcoxon_p >= ALPHA

    def verdict(self, decimals: int) -> str:
        """One clause: interval, p, number of cases, and what can be said."""
        if self.test is None:
            return f"n = {self.n}: too few differing cases for a test, so no conclusion"
        corrected = ", not corrected for other comparisons" if self.holm_p is None else f", by Holm {_p(self.holm_p)}"
        told = (
            f"95 % interval {signed(self.test.low, decimals)} to {signed(self.test.high, decimals)}, paired t-test "
            f"{_p(self.test.p)}{corrected}, n = {self.n}"
        )
        ranks = f", Wilcoxon {_p(self.wilcoxon_p)}" if self.wilcoxon_p is not None and self._ranks_disagree else ""
        return (
            f"{told}{ranks}: {'more than chance explains' if self.is_clear else 'this run cannot tell the two apart'}"
        )


def _p(value: float) -> str:
    shown = show_p(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


@dataclass(frozen=True)
class Difference:
    """DSC difference over `sites`, in per cent points: paired, or of means with an unpaired standard error."""

    points: float
    """Over the sites' means, each site once."""
    standard_error: float | None
    sites: tuple[str, ...]
    decimals: int
    """With which it is shown."""
    paired: Paired | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the difference is more than chance explains: by the paired test, or more than two standard errors."""
        if self.paired is not None:
            return self.paired.is_clear
        return self.standard_error is not None and abs(self.points) > 2 * self.standard_error

    @property
    def verdict(self) -> str:
        """One clause: is the difference more than chance, or the cases' spread, explains?"""
        if self.paired is not None:
            return self.paired.verdict(self.decimals)
        if self.standard_error is None:
            return "too few cases for a standard error, so no conclusion"
        error = f"unpaired standard error {self.standard_error:.{self.decimals}f}"
        if self.is_clear:
            return f"{error}: more than twice what the spread between cases explains"
        return f"{error}: unpaired, this run cannot tell the two apart"

    def __str__(self) -> str:
        return signed(self.points, self.decimals)


@dataclass(frozen=True)
class Abroad:
    """Mean DSC (0 to 1) on the sites that did not train the local-only models."""

    local: float
    """Of the local-only models; every pair of a model and another site counts once."""
    federated: float
    """Of the federated model, over the same pairs."""
    num_cells: int
    """Pairs where both models have a DSC."""
    num_missing: int
    """Pairs left out because one of them has none."""

    @property
    def points(self) -> float:
        """Federated minus local-only, in per cent points."""
        return 100 * (self.federated - self.local)


def model_origins(experiment: Experiment) -> dict[str, ModelOrigin]:
    """Returns the origin of every model that the experiment makes; a `train` step over one site is local-only."""
    origins: dict[str, ModelOrigin] = {}
    for step in experiment.steps:
        if isinstance(step, TrainStep):
            origins[step.model] = _trained(step, experiment.sites_of(step))
        elif isinstance(step, LocalStep):
            for site in experiment.sites_of(step):
                origins[f"{step.model}-{site}"] = ModelOrigin("local", site, None, f"trained at {site} alone")
        elif isinstance(step, FinetuneStep):
            for site in experiment.sites_of(step):
                text = f"{step.initial}, fine-tuned at {site}"
                origins[f"{step.model}-{site}"] = ModelOrigin("finetuned", site, step.initial, text)
        elif isinstance(step, PooledStep):
            origins[step.model] = _pooled(step, experiment.sites_of(step))
    return origins


def _pooled(step: PooledStep, sites: tuple[str, ...]) -> ModelOrigin:
    text = f"trained on the cases of {', '.join(sites)} in one place{_begun(step.initial)}"
    return ModelOrigin("pooled", None, step.initial, text, sites)


def _begun(initial: str | None) -> str:
    return f", begun from {initial}" if initial else ""


def _trained(step: TrainStep, sites: tuple[str, ...]) -> ModelOrigin:
    begun = (", normalisation layers left at each site" if step.strategy == "fedbn" else "") + _begun(step.initial)
    if len(sites) > 1:
        return ModelOrigin("federated", None, step.initial, f"{step.strategy} over {', '.join(sites)}{begun}", sites)
    kind = "finetuned" if step.initial else "local"
    return ModelOrigin(kind, sites[0], step.initial, f"trained at {sites[0]} alone{begun}")


def difference(matrix: Matrix, first: list[tuple[str, str]], second: list[tuple[str, str]]) -> Difference:
    """Returns the DSC of `first` minus that of `second`, (model, site) cells paired in order by site.

    Case by case where every site has compared its pair, else of the means.
    """
    sites = tuple(site for _, site in first)
    lines = [matrix.comparison(one, two, site, "dsc") for (one, site), (two, _) in zip(first, second, strict=True)]
    told = [line for line in lines if line is not None and line.difference is not None]
    if len(told) == len(first):
        return _paired(matrix, told, sites)
    pairs = [(_dsc(matrix, *one), _dsc(matrix, *two)) for one, two in zip(first, second, strict=True)]
    variances = [variance_of_mean(matrix, *cell) for cell in (*first, *second)]
    known = [variance for variance in variances if variance is not None]
    error = 100 * sqrt(sum(known)) / len(pairs) if len(known) == len(variances) else None
    return Difference(100 * fmean(one - two for one, two in pairs), error, sites, matrix.decimals(sites))


def _paired(matrix: Matrix, lines: list[ComparisonLine], sites: tuple[str, ...]) -> Difference:
    """Each site counts once; the models may differ from site to site, as fine-tuned ones do.

    Of sites with equally many cases that is the mean over cases, of which the ledger has more tests.
    """
    parts = [Moments(line.n or 0, 100 * (line.difference or 0.0), 100 * (line.sd or 0.0)) for line in lines]
    if len({part.n for part in parts}) > 1:
        mean, test = mean_of_sites(parts)
        return Difference(mean, None, sites, matrix.decimals(sites), Paired(sum(part.n for part in parts), test))
    whole = pooled(parts)
    line = _line_of(matrix, lines, sites)
    tests = (line.holm_p, line.wilcoxon_p) if line else ()
    return Difference(whole.mean, None, sites, matrix.decimals(sites), Paired(whole.n, paired_t(whole), *tests))


def _line_of(matrix: Matrix, lines: list[ComparisonLine], sites: tuple[str, ...]) -> ComparisonLine | None:
    """The ledger's own line on this very pair over these very sites, or None."""
    if len(lines) == 1:
        return lines[0]
    models = {(line.first, line.second) for line in lines}
    over = matrix.comparison(*models.pop(), None, "dsc") if len(models) == 1 else None
    return over if over is not None and set(over.sites) == set(sites) else None


def local_homes(origins: Mapping[str, ModelOrigin]) -> dict[str, str]:
    """Returns the site that each local-only model was trained at."""
    return {model: origin.site for model, origin in origins.items() if origin.kind == "local" and origin.site}


def pooled_like(origins: Mapping[str, ModelOrigin], federated: str) -> list[str]:
    """Returns the pooled models of the very sites that trained `federated`."""
    sites = set(origins[federated].sites)
    return [model for model, origin in origins.items() if origin.kind == "pooled" and set(origin.sites) == sites]


def cells_abroad(homes: Mapping[str, str], sites: Sequence[str]) -> list[tuple[str, str]]:
    """Returns each local-only model with every site that did not train it."""
    return [(model, site) for model, home in homes.items() for site in sites if site != home]


def abroad(matrix: Matrix, federated: str, homes: Mapping[str, str]) -> Abroad | None:
    """Returns how local-only models fare on the sites that did not train them, and the federated model there.

    Args:
        matrix: what was measured.
        federated: the model to compare with.
        homes: each local-only model's own site.

    Returns:
        None where no pair of a model and another site has a DSC of both.
    """
    pairs = cells_abroad(homes, matrix.sites)
    known = [(model, site) for model, site in pairs if site in matrix.sites_with([federated, model], "dsc")]
    if not known:
        return None
    return Abroad(
        local=fmean(_dsc(matrix, model, site) for model, site in known),
        federated=fmean(_dsc(matrix, federated, site) for _, site in known),
        num_cells=len(known),
        num_missing=len(pairs) - len(known),
    )


def _dsc(matrix: Matrix, model: str, site: str) -> float:
    value = matrix.mean(model, site, "dsc")
    assert value is not None, f"{model} at {site} has no DSC; choose cells by sites_with"
    return value


def variance_of_mean(matrix: Matrix, model: str, site: str) -> float | None:
    """Returns the squared standard error of a cell's mean DSC (0 to 1) over its cases; None: not known."""
    spread, result = matrix.spread(model, site, "dsc"), matrix.results.get((model, site))
    if result is None or spread is None or spread.sd is None or result.n is None or result.n < 2:
        return None
    return spread.sd**2 / result.n


def conclusions(matrix: Matrix, experiment: Experiment) -> tuple[str, ...]:
    """Returns the headline sentences of one matrix, the most important first; never empty."""
    origins = {model: origin for model, origin in model_origins(experiment).items() if model in matrix.models}
    federated = [model for model, origin in origins.items() if origin.kind == "federated"]
    federated.sort(key=lambda model: (origins[model].initial is not None, -len(origins[model].sites)))
    local = [model for model, origin in origins.items() if origin.kind == "local"]
    sentences = [_against_local(matrix, model, local) for model in federated[:1] if local]
    sentences += _means(matrix, federated if not local else federated[1:])
    if federated:
        sentences.append(_abroad(matrix, federated[0], origins))
        sentences.append(_against_own_local(matrix, federated[0], origins))
        sentences += [_against_pooled(matrix, federated[0], model) for model in pooled_like(origins, federated[0])]
        sentences.append(_unseen(matrix, federated, origins))
    sentences += _finetuned_sentences(matrix, origins)
    sentences += comparison_sentences(_rivals(matrix, origins))
    kept = tuple(filter(None, (_empty(matrix), *sentences, _withheld(matrix))))
    if any(line.difference is not None for line in matrix.comparisons):
        kept += (ONE_TRAINING,) if kept else ()
    return kept or ("The matrix below holds no pair of models that this report knows how to compare.",)


def _empty(matrix: Matrix) -> str:
    """Where many predictions are empty, that goes before all else: nothing that follows says much then."""
    known = [result for result in matrix.results.values() if result.n]
    num_empty, n = sum(result.num_empty or 0 for result in known), sum(result.n or 0 for result in known)
    if num_empty <= MANY_EMPTY * n:
        return ""
    return f"In {num_empty} of {n} measurements the model found nothing at all, which counts as DSC 0."


def _withheld(matrix: Matrix) -> str:
    """Who tells nothing, and why."""
    reasons = {site: result.withheld for (_, site), result in matrix.results.items() if result.withheld}
    return f"Withheld: {'; '.join(f'{site}, {why}' for site, why in sorted(reasons.items()))}." if reasons else ""


def _rivals(matrix: Matrix, origins: Mapping[str, ModelOrigin]) -> list[ComparisonLine]:
    """Pairs of models made of the same sites' cases in another way, as by another network: none of the above."""
    cohorts = {model: (origin.kind, origin.site, origin.sites) for model, origin in origins.items()}
    known = [line for line in matrix.comparisons if line.first in cohorts and line.second in cohorts]
    return [line for line in known if cohorts[line.first] == cohorts[line.second]]


def _against_local(matrix: Matrix, federated: str, local: list[str]) -> str:
    """The federated model against the best and the mean local-only model, over the sites where all have a value."""
    where = set(matrix.sites_with([federated], "dsc"))
    whole = [model for model in local if where <= set(matrix.sites_with([model], "dsc"))]
    local = whole or local  # one that only some sites measured would leave the others' cases out
    sites = matrix.sites_with([federated, *local], "dsc")
    if not sites:
        return ""
    scores = {model: matrix.mean_over_sites(model, "dsc", sites)[0] or 0.0 for model in local}
    best = max(scores, key=lambda model: scores[model])
    gap = difference(matrix, [(federated, site) for site in sites], [(best, site) for site in sites])
    own = matrix.mean_over_sites(federated, "dsc", sites)[0]
    shown = partial(_percent, decimals=gap.decimals)
    return (
        f"Mean DSC over {_cases(matrix, sites, [federated, *local])}: {federated} {shown(own)}"
        f"{_sd_range(matrix, federated)}, the best of {len(local)} local-only "
        f"models ({best}, chosen by this same score) {shown(scores[best])}, the local-only models on average "
        f"{shown(fmean(scores.values()))}. The first minus the best: {gap} points ({gap.verdict})."
    )


def _percent(share: float | None, decimals: int) -> str:
    """The DSC with a unit that does not wrap to the next line."""
    return f"{DSC.show(share, decimals)}\N{NO-BREAK SPACE}%"


def _sd_range(matrix: Matrix, model: str) -> str:
    """` (SD between cases 8.10-14.20)`, or nothing where no SD is known."""
    spreads = [matrix.spread(model, site, "dsc") for site in matrix.sites]
    known = [spread.sd for spread in spreads if spread and spread.sd is not None]
    if not known:
        return ""
    lowest, highest = (DSC.show(value, matrix.decimals(matrix.sites)) for value in (min(known), max(known)))
    return f" (SD between a site's cases {lowest} to {highest})"


def _means(matrix: Matrix, models: list[str]) -> list[str]:
    """The mean DSC of each model; those over the same sites in one sentence."""
    by_sites: dict[tuple[str, ...], list[str]] = {}
    for model in models:
        if sites := matrix.sites_with([model], "dsc"):
            by_sites.setdefault(sites, []).append(model)
    return [_means_over(matrix, sites, own) for sites, own in by_sites.items()]


def _means_over(matrix: Matrix, sites: tuple[str, ...], models: list[str]) -> str:
    means = [_percent(matrix.mean_over_sites(model, "dsc", sites)[0], matrix.decimals(sites)) for model in models]
    if len(models) == 1:
        return f"{models[0]}: mean DSC {means[0]} over {_cases(matrix, sites, models)}."
    told = ", ".join(f"{model} {mean}" for model, mean in zip(models, means, strict=True))
    return f"Mean DSC over {_cases(matrix, sites, models)}: {told}."


def _abroad(matrix: Matrix, federated: str, origins: Mapping[str, ModelOrigin]) -> str:
    """The local-only models on the sites that did not train them, against the federated model on the same cells."""
    found = abroad(matrix, federated, local_homes(origins))
    if found is None:
        return ""
    is_only = sum(origin.kind == "federated" for origin in origins.values()) == 1
    name = "the federated model" if is_only else federated
    cells = counted(found.num_cells, "cell")
    shown = partial(_percent, decimals=matrix.decimals(matrix.sites))
    missing = f"; {found.num_missing} more without a value" if found.num_missing else ""
    return (
        f"On the sites that did not train them, the local-only models reach {shown(found.local)} "
        f"(mean of {cells}{missing}); {name} reaches {shown(found.federated)} on the same cells."
    )


def _against_own_local(matrix: Matrix, federated: str, origins: dict[str, ModelOrigin]) -> str:
    """The federated model against each site's own local model at that site: what a hospital gains by taking part."""
    own = {home: model for model, home in local_homes(origins).items()}
    sites = [site for site in own if site in matrix.sites_with([federated, own[site]], "dsc")]
    if not sites:
        return ""
    gap = difference(matrix, [(federated, site) for site in sites], [(own[site], site) for site in sites])
    joint = dict.fromkeys(sites, federated)
    return f"At each site, {federated} minus the site's own local-only model: {_by_site(matrix, gap, joint, own)}"


def _unseen(matrix: Matrix, federated: list[str], origins: dict[str, ModelOrigin]) -> str:
    """Federated models at the sites that did not train them, and the one that leads there: what a newcomer gets."""
    cells = {
        site: model
        for model in federated
        for site in matrix.sites_with([model, federated[0]], "dsc")
        if site not in origins[model].sites and not origins[model].initial and site in origins[federated[0]].sites
    }
    if not cells:
        return ""
    gap = difference(matrix, [(model, site) for site, model in cells.items()], [(federated[0], site) for site in cells])
    told = ", ".join(
        f"{model} at {site} {_percent(matrix.mean(model, site, 'dsc'), matrix.decimals([site]))}"
        for site, model in cells.items()
    )
    shown = _by_site(matrix, gap, cells, dict.fromkeys(cells, federated[0]))
    return f"At the site that did not train it: {told}. Minus {federated[0]} there: {shown}"


def _against_pooled(matrix: Matrix, federated: str, pooled: str) -> str:
    """The federated model against the one trained on all cases in one place: what keeping them apart costs."""
    sites = matrix.sites_with([federated, pooled], "dsc")
    if not sites:
        return ""
    gap = difference(matrix, [(federated, site) for site in sites], [(pooled, site) for site in sites])
    first, second = dict.fromkeys(sites, federated), dict.fromkeys(sites, pooled)
    return f"{federated} minus {pooled}, which saw the cases in one place: {_by_site(matrix, gap, first, second)}"


def _finetuned_sentences(matrix: Matrix, origins: dict[str, ModelOrigin]) -> list[str]:
    """For every model that was fine-tuned: the results at their own sites against the model before."""
    by_initial: dict[str, dict[str, str]] = {}
    for model, origin in origins.items():
        if origin.kind == "finetuned" and origin.initial and origin.site:
            by_initial.setdefault(origin.initial, {})[origin.site] = model
    sentences = []
    for initial, tuned in by_initial.items():
        own = {site: model for site, model in tuned.items() if site in matrix.sites_with([initial, model], "dsc")}
        if own:
            gap = difference(matrix, [(own[site], site) for site in own], [(initial, site) for site in own])
            before = dict.fromkeys(own, initial)
            whose = "At each site, its fine-tuned model" if len(own) > 1 else "The fine-tuned model"
            sentences.append(f"{whose} minus {initial}: {_by_site(matrix, gap, own, before)}")
    return sentences


def _by_site(matrix: Matrix, gap: Difference, first: dict[str, str], second: dict[str, str]) -> str:
    """`A +1.20 (n = 3), B -0.40 (n = 4) points of DSC; mean +0.40 (verdict).` as text."""
    parts = []
    for site in gap.sites:
        here = difference(matrix, [(first[site], site)], [(second[site], site)])
        n = _least(matrix, [(first[site], site), (second[site], site)])
        parts.append(f"{site} {here} (n = {n or NONE})".replace(" ", "\N{NO-BREAK SPACE}"))
    mean = f"; mean {gap}" if len(parts) > 1 else ""
    return f"{', '.join(parts)} points of DSC{mean} ({gap.verdict})."


def _cases(matrix: Matrix, sites: tuple[str, ...], models: list[str]) -> str:
    """`3 sites (A, B, C; 10 test cases)`: those that every one of `models` was measured on."""
    numbers = [_least(matrix, [(model, site) for model in models]) for site in sites]
    cases = f"{sum(number or 0 for number in numbers)}{'' if all(numbers) else ' or more'} {matrix.split} cases"
    return f"{counted(len(sites), 'site')} ({', '.join(sites)}; {cases})"


def _least(matrix: Matrix, cells: list[tuple[str, str]]) -> int | None:
    """The number of cases that all of these cells are over, as far as it is told."""
    return min((number for cell in cells if (number := matrix.results[cell].n)), default=None)
