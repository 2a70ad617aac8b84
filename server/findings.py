"""What an experiment is about, as numbers with their noise: over trainings with other seeds, and over patients."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from statistics import fmean, stdev

from scipy import special

from common.experiment import Experiment
from common.paired_tests import Moments, paired_t
from server.conclusion import ModelOrigin, cells_abroad, local_homes, model_origins, pooled_like, variance_of_mean
from server.matrix import Matrix

Cell = tuple[str, str]
"""A model at a site."""


@dataclass(frozen=True)
class Finding:
    """A quantity in DSC points (per cent), one value a seed."""

    name: str
    values: tuple[float, ...]
    errors: tuple[float | None, ...] = ()
    """Standard error of each value over the test cases; None: not known."""
    degrees: int = 1
    """Of freedom of these errors, for Student's t: those of the site with the fewest cases, which is cautious."""

    @property
    def sd(self) -> float | None:
        """Sample SD over the seeds: the noise of training; None for a single seed or an unknown value."""
        if any(isnan(value) for value in self.values):
            return None
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def over_seeds(self) -> tuple[float, float] | None:
        """95 % interval of the mean over trainings, on these very patients, by Student's t."""
        if self.sd is None:
            return None
        test = paired_t(Moments(len(self.values), fmean(self.values), self.sd))
        return (test.low, test.high) if test else None

    @property
    def over_cases(self) -> tuple[float, float] | None:
        """95 % interval of the mean over patients, of these very trainings.

        The error of a mean over seeds is no larger than the mean of their errors, which stands for it.
        """
        known = [error for error in self.errors if error is not None]
        if not known or len(known) < len(self.values):
            return None
        half = float(special.stdtrit(self.degrees, 0.975)) * fmean(known)
        return fmean(self.values) - half, fmean(self.values) + half


@dataclass(frozen=True)
class _Question:
    """A mean over cells of the matrix, or how it differs from that over as many others."""

    name: str
    first: tuple[Cell, ...]
    second: tuple[Cell, ...] = ()

    def answer(self, matrices: Sequence[Matrix]) -> Finding:
        values = [_points(matrix, self.first) - _points(matrix, self.second) for matrix in matrices]
        errors = tuple(_error(matrix, self) for matrix in matrices)
        numbers = [
            matrices[0].results[cell].n or 0 for cell in (*self.first, *self.second) if cell in matrices[0].results
        ]
        return Finding(self.name, tuple(values), errors, max(1, min(numbers, default=0) - 1))


def findings(experiment: Experiment, matrices: Sequence[Matrix]) -> tuple[Finding, ...]:
    """Returns, over the seeds, each model's mean DSC and the differences that the experiment is about.

    The federated model from fresh weights over most sites is set against the pooled one, each local-only model, and
    the mean of the local-only models on the sites that did not train them ("abroad"). A local-only model is set against
    itself at home (other patients, so unpaired), and what goes on from a model against that model, where it trained.
    """
    return tuple(question.answer(matrices) for question in _questions(experiment, matrices[0]))


def _questions(experiment: Experiment, matrix: Matrix) -> Iterator[_Question]:
    origins = {m: origin for m, origin in model_origins(experiment).items() if m in matrix.models}
    for model in matrix.models:
        sites = _measured(matrix, model)
        where = "mean over sites" if sites == matrix.sites else f"at {', '.join(sites)}"
        yield _Question(f"{model}, {where}", _cells(model, sites))
    homes = local_homes(origins)
    fresh = [m for m, origin in origins.items() if origin.kind == "federated" and not origin.initial]
    federated = sorted(fresh, key=lambda model: -len(origins[model].sites))[:1]
    for base in federated:
        yield from _unseen(matrix, origins, base)
        for other in (*pooled_like(origins, base), *homes):
            yield from _minus(matrix, base, other)
        yield from _abroad(matrix, base, homes)
    yield from _transferred(matrix, homes)
    yield from _gone_on(matrix, origins)
    for base in federated:
        yield from _tuned(matrix, origins, base, homes)


def _measured(matrix: Matrix, model: str) -> tuple[str, ...]:
    return tuple(site for site in matrix.sites if (model, site) in matrix.results)


def _cells(model: str, sites: Sequence[str]) -> tuple[Cell, ...]:
    return tuple((model, site) for site in sites)


def _minus(matrix: Matrix, first: str, second: str, sites: Sequence[str] = ()) -> Iterator[_Question]:
    """`sites`: where; none given: everywhere that both are measured."""
    both = [site for site in sites or matrix.sites if {(first, site), (second, site)} <= set(matrix.results)]
    if both:
        where = "mean over sites" if not sites and tuple(both) == matrix.sites else f"at {', '.join(both)}"
        yield _Question(f"{first} minus {second}, {where}", _cells(first, both), _cells(second, both))


def _abroad(matrix: Matrix, base: str, homes: Mapping[str, str]) -> Iterator[_Question]:
    pairs = [(m, s) for m, s in cells_abroad(homes, matrix.sites) if {(m, s), (base, s)} <= set(matrix.results)]
    if pairs:
        first = tuple((base, site) for _, site in pairs)
        yield _Question(f"{base} minus local-only models abroad, mean", first, tuple(pairs))


def _unseen(matrix: Matrix, origins: Mapping[str, ModelOrigin], base: str) -> Iterator[_Question]:
    """Models of other sites, at the sites of `base` that did not train them."""
    for model, origin in origins.items():
        if origin.kind == "federated" and not origin.initial:
            unseen = [site for site in origins[base].sites if site not in origin.sites]
            yield from _minus(matrix, model, base, unseen) if unseen else ()


def _transferred(matrix: Matrix, homes: Mapping[str, str]) -> Iterator[_Question]:
    for model, home in homes.items():
        if (model, home) in matrix.results:
            for site in _measured(matrix, model):
                if site != home:
                    yield _Question(f"{model}: at {site} minus at {home}", ((model, site),), ((model, home),))


def _gone_on(matrix: Matrix, origins: Mapping[str, ModelOrigin]) -> Iterator[_Question]:
    for model, origin in origins.items():
        if origin.initial:
            sites = (origin.site,) if origin.site else origin.sites
            yield from _minus(matrix, model, origin.initial, sites)
            home = origins[origin.initial].site if origin.initial in origins else None
            if origin.site and home and {(model, origin.site), (origin.initial, home)} <= set(matrix.results):
                name = f"{model} at {origin.site} minus {origin.initial} at {home}"
                yield _Question(name, ((model, origin.site),), ((origin.initial, home),))


def _tuned(
    matrix: Matrix, origins: Mapping[str, ModelOrigin], base: str, homes: Mapping[str, str]
) -> Iterator[_Question]:
    """The federated model fine-tuned, each at its own site, against itself, the pooled one and the local-only ones."""
    tuned = [(m, o.site) for m, o in origins.items() if o.kind == "finetuned" and o.initial == base and o.site]
    first = tuple(cell for cell in tuned if cell in matrix.results)
    if len(first) < 2 or len(first) < len(tuned):
        return
    at_home = {home: model for model, home in homes.items()}
    rivals = {name: {site: name for _, site in first} for name in (base, *pooled_like(origins, base))}
    rivals |= {"local-only": at_home} if {site for _, site in first} <= set(at_home) else {}
    for name, model_at in rivals.items():
        second = tuple((model_at[site], site) for _, site in first)
        yield _Question(f"fine-tuned minus {name}, each at its own site, mean", first, second)


def _points(matrix: Matrix, cells: Sequence[Cell]) -> float:
    """Mean DSC in per cent, 0 of no cell; nan where a site gave none, so that it shows."""
    values = [matrix.mean(model, site, "dsc") for model, site in cells]
    return 100 * fmean(nan if value is None else value for value in values) if cells else 0.0


def _error(matrix: Matrix, question: _Question) -> float | None:
    """Standard error in points; cells of one site share patients, so their errors are added as if in step."""
    seconds: Sequence[Cell | None] = question.second or [None] * len(question.first)
    by_site: dict[str, float] = {}
    for first, second in zip(question.first, seconds, strict=True):
        variance = _variance(matrix, first, second)
        if variance is None:
            return None
        by_site[first[1]] = by_site.get(first[1], 0.0) + sqrt(variance)
    return 100 * sqrt(sum(error**2 for error in by_site.values())) / len(question.first)


def _variance(matrix: Matrix, first: Cell, second: Cell | None) -> float | None:
    """Of a cell's mean, or of a difference: by the sites' paired differences where they told them."""
    if second and first[1] == second[1]:
        line = matrix.comparison(first[0], second[0], first[1], "dsc")
        if line is not None and line.sd is not None and line.n:
            return line.sd**2 / line.n
    parts = [variance_of_mean(matrix, *cell) for cell in (first, second) if cell]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
