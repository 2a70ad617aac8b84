"""One experiment at several seeds: what stays, and how much is noise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan, nan
from pathlib import Path
from statistics import fmean, stdev

from common.atomic import write_text_atomically
from common.experiment import Experiment
from server.conclusion import abroad, local_homes, model_origins, pooled_like
from server.matrix import Matrix, load_matrices


@dataclass(frozen=True)
class Finding:
    """A quantity in DSC points (per cent), one value a seed."""

    name: str
    values: tuple[float, ...]

    @property
    def sd(self) -> float | None:
        """Sample SD over the seeds: the noise; None for a single seed or an unknown value."""
        if any(isnan(value) for value in self.values):
            return None
        return stdev(self.values) if len(self.values) > 1 else None


def findings(experiment: Experiment, matrices: Sequence[Matrix]) -> tuple[Finding, ...]:
    """Returns, over the seeds, each model's mean DSC over sites and the differences that the experiment is about.

    A fine-tuned model is set against the federated one at its own site; the federated one against the pooled one and
    each local-only model over all sites, and against the mean of the local-only models on the sites that did not train
    them ("abroad").
    """
    origins = {m: origin for m, origin in model_origins(experiment).items() if m in matrices[0].models}
    federated = [model for model, origin in origins.items() if origin.kind == "federated"][:1]
    found = [
        Finding(f"{model}, mean over sites", _over(matrices, partial(_everywhere, model=model)))
        for model in matrices[0].models
    ]
    for base in federated:
        found += _minus_each(matrices, base, pooled_like(origins, base))
        found += _against_local(matrices, base, local_homes(origins))
        found += _finetuned(matrices, base, {m: o.site or "" for m, o in origins.items() if o.kind == "finetuned"})
    return tuple(found)


def _minus_each(matrices: Sequence[Matrix], base: str, others: Iterable[str]) -> list[Finding]:
    return [
        Finding(
            f"{base} minus {model}, mean over sites",
            _over(matrices, partial(_gap, first=base, second=model, sites=())),
        )
        for model in others
    ]


def _against_local(matrices: Sequence[Matrix], base: str, local: Mapping[str, str]) -> list[Finding]:
    rows = _minus_each(matrices, base, local)
    if any(abroad(matrix, base, local) for matrix in matrices):
        values = _over(matrices, partial(_abroad, base=base, local=local))
        rows.append(Finding(f"{base} minus local-only models abroad, mean", values))
    return rows


def _finetuned(matrices: Sequence[Matrix], base: str, tuned: Mapping[str, str]) -> list[Finding]:
    rows = [
        Finding(
            f"{model} minus {base}, at {home}",
            _over(matrices, partial(_gap, first=model, second=base, sites=(home,))),
        )
        for model, home in tuned.items()
    ]
    if tuned:
        values = tuple(fmean(row.values[seed] for row in rows) for seed in range(len(matrices)))
        rows.append(Finding(f"fine-tuned minus {base}, each at its own site, mean", values))
    return rows


def _over(matrices: Sequence[Matrix], quantity: Callable[[Matrix], float]) -> tuple[float, ...]:
    return tuple(quantity(matrix) for matrix in matrices)


def _everywhere(matrix: Matrix, model: str) -> float:
    return _mean(matrix, model, matrix.sites)


def _gap(matrix: Matrix, first: str, second: str, sites: Sequence[str]) -> float:
    """First minus second over `sites`; none given: over all."""
    return _mean(matrix, first, sites or matrix.sites) - _mean(matrix, second, sites or matrix.sites)


def _abroad(matrix: Matrix, base: str, local: Mapping[str, str]) -> float:
    """Points over all pairs of a local-only model and another site; nan where one is missing."""
    found = abroad(matrix, base, local)
    return found.points if found and not found.num_missing else nan


def _mean(matrix: Matrix, model: str, sites: Sequence[str]) -> float:
    """Mean DSC in per cent; nan where a site gave none, so that it shows."""
    value, known = matrix.mean_over_sites(model, "dsc", sites)
    return 100 * value if value is not None and known == len(sites) else nan


def write_seeds(experiment: Experiment, runs: Mapping[int, Path], folder: Path) -> str:
    """Writes `seeds.md` into `folder` and returns its text: a row a quantity, a column a seed, then mean and SD."""
    found = findings(experiment, [load_matrices(run)[0] for run in runs.values()])
    header = ["DSC, % (test cases)", *[f"seed {seed}" for seed in runs], "mean", "SD over seeds"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in found:
        spread = "–" if row.sd is None else f"{row.sd:.2f}"
        lines.append([row.name, *[f"{value:.2f}" for value in row.values], f"{fmean(row.values):.2f}", spread])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    write_text_atomically(folder / "seeds.md", text)
    return text
