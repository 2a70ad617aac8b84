"""A run's results in the layout of the paper's Tables 2, 3 and 4, the paper's figures beside them.

Sites stand for the paper's institutions in the experiment's order: the first for A, the second for B, the third for C.
"""

from collections.abc import Iterable, Mapping, Sequence

from common.experiment import Experiment
from common.paired_tests import Moments, pooled
from server.lineage import Lineage, lineages
from server.matrix import MANY_CASES, Matrix
from server.metric import METRIC, METRICS, NONE, Metric
from server.paper import NETWORKS, SOURCE, TRANSFERS, Network, Transfer
from server.paper_differences import why_not_comparable
from server.run_record import RunRecord, Spread
from server.table import Cell, Table

INSTITUTIONS = "ABC"
TITLES = {"table2": "Table 2", "table3": "Table 3", "table4": "Table 4"}
TRANSFER_METRICS = (METRIC["dsc"], METRIC["assd_mm"])
PAPER = Cell("paper", reference=True)


def paper_table(record: RunRecord, matrix: Matrix) -> Table | None:
    """Returns the table that the experiment reproduces; None where it names none, or has no row of it."""
    if not record.experiment.reproduces:
        return None
    is_transfer = record.experiment.reproduces == "table4"
    table = _transfer_table(record, matrix) if is_transfer else _network_table(record, matrix)
    return table if table.rows else None


def _network_table(record: RunRecord, matrix: Matrix) -> Table:
    name = record.experiment.reproduces
    known = lineages(record.experiment)
    home = record.experiment.sites[0]
    found = [(network, _model_of(network, known, matrix, home)) for network in NETWORKS[name]]
    rows = tuple(_network_row(network, matrix, model, home) for network, model in found if model)
    absent = [network.title for network, model in found if model is None]
    columns = [cell for metric in METRICS for cell in (Cell(f"{metric.title}, {metric.unit}"), PAPER)]
    models = [model for _, model in found if model]
    return Table(
        name=f"paper-{name}",
        title=f"{TITLES[name]} of the paper: networks tested at {home}, mean ± SD over cases",
        header=(Cell("network"), Cell("n"), *columns),
        rows=rows,
        notes=_notes(record, matrix, models, absent),
    )


def _model_of(network: Network, known: Mapping[str, Lineage], matrix: Matrix, home: str) -> str | None:
    """The measured model that bears the network's name; of a step with one model a site, that of the site itself."""
    for name in network.models:
        for model in (name, f"{name}-{home}"):
            if model in known and known[model].base == name and model in matrix.models:
                return model
    return None


def _network_row(network: Network, matrix: Matrix, model: str, site: str) -> tuple[Cell, ...]:
    result = matrix.results.get((model, site))
    n = result.n if result else None
    cells = [Cell(network.title), Cell(NONE if n is None else str(n))]
    for metric in METRICS:
        spread = matrix.spread(model, site, metric.key)
        cells += [Cell(metric.show_spread(spread, matrix.decimals([site]))), _reference(getattr(network, metric.key))]
    return tuple(cells)


def _reference(value: float | None) -> Cell:
    return Cell(NONE if value is None else f"{value:.2f}", reference=True)


def _transfer_table(record: RunRecord, matrix: Matrix) -> Table:
    sites = dict(zip(INSTITUTIONS, record.experiment.sites, strict=False))
    known = {model: line for model, line in lineages(record.experiment).items() if model in matrix.models}
    rows, models, absent = [], [], 0
    theirs = [transfer for transfer in TRANSFERS if transfer.dsc is not None]
    for transfer in TRANSFERS:
        tested = [sites[each] for each in transfer.tested if each in sites]
        own = [
            model
            for model in _models_of(transfer, known, sites)
            if all((model, site) in matrix.results for site in tested)
        ]
        models += own
        absent += not own and transfer in theirs
        rows += [_transfer_row(transfer, matrix, model, sites) for model in own]
    columns = [cell for metric in TRANSFER_METRICS for cell in (Cell(f"{metric.title}, {metric.unit}"), PAPER)]
    labels = ("trained on", "fine-tuned on", "tested on", "model", "n")
    return Table(
        name="paper-table4",
        title="Table 4 of the paper: transfer between sites, mean ± SD over cases",
        header=(*map(Cell, labels), *columns),
        rows=tuple(rows),
        num_labels=4,
        notes=_notes(record, matrix, models, [f"{absent} of its {len(theirs)} rows"] if absent else []),
    )


def _models_of(transfer: Transfer, known: Mapping[str, Lineage], sites: Mapping[str, str]) -> list[str]:
    """The models that went the row's way; none where the experiment has no such institution."""
    if not set(transfer.trained + transfer.tuned + transfer.tested) <= set(sites):
        return []
    trained, tuned = (frozenset(sites[each] for each in part) for part in (transfer.trained, transfer.tuned))
    return [model for model, line in known.items() if (line.trained, line.tuned) == (trained, tuned)]


def _transfer_row(transfer: Transfer, matrix: Matrix, model: str, sites: Mapping[str, str]) -> tuple[Cell, ...]:
    tested = [sites[each] for each in transfer.tested]
    n, _ = together(matrix, model, tested, METRIC["dsc"])
    names = [" + ".join(sites[each] for each in part) for part in (transfer.trained, transfer.tuned, transfer.tested)]
    cells = [*map(Cell, (names[0], names[1] or NONE, names[2], model)), Cell(str(n) if n else NONE)]
    for metric in TRANSFER_METRICS:
        number, spread = together(matrix, model, tested, metric)
        shown = metric.show_spread(spread, 2 if number >= MANY_CASES else 1)
        cells += [Cell(shown), _reference(getattr(transfer, metric.key))]
    return tuple(cells)


def together(matrix: Matrix, model: str, sites: Sequence[str], metric: Metric) -> tuple[int, Spread]:
    """Returns the number of cases with a value, and mean and SD over the cases of several sites as one cohort.

    Exact, from each site's n, mean and SD; nothing is known where one of the sites tells nothing.
    """
    spreads = [matrix.spread(model, site, metric.key) for site in sites]
    if len(sites) == 1:
        return _num_values(matrix, model, sites[0], metric), spreads[0] or Spread()
    parts = [
        Moments(_num_values(matrix, model, site, metric), spread.mean, spread.sd or 0.0)
        for site, spread in zip(sites, spreads, strict=True)
        if spread and spread.mean is not None
    ]
    if len(parts) < len(sites) or not any(part.n for part in parts):
        return 0, Spread()
    whole, has_sd = pooled(parts), all(spread and spread.sd is not None for spread in spreads)
    return whole.n, Spread(mean=whole.mean, sd=whole.sd if has_sd else None)


def _num_values(matrix: Matrix, model: str, site: str, metric: Metric) -> int:
    """Cases behind a mean: of distances, those that have one."""
    result = matrix.results.get((model, site))
    undefined = (result.num_undefined or 0) if result and metric.is_distance else 0
    return ((result.n or 0) - undefined) if result else 0


def _notes(record: RunRecord, matrix: Matrix, models: Iterable[str], absent: Sequence[str]) -> tuple[str, ...]:
    """Where the figures come from, what was not run, and why the two do not compare."""
    experiment = record.experiment
    stand = [f"{site} for {each}" for each, site in zip(INSTITUTIONS, experiment.sites, strict=False) if site != each]
    sites = f" Sites stand for its institutions: {', '.join(stand)}." if stand else ""
    origin = f"In italics: the paper's means ({SOURCE}).{sites}"
    missing = (f"Not run here: {', '.join(absent)}.",) if absent else ()
    why = why_not_comparable(record, matrix, tuple(dict.fromkeys(models)))
    return (origin, *missing, why)


def reproduces_nothing(experiment: Experiment, table: Table | None) -> str:
    """Returns why the paper's table is not shown though the experiment names it; else nothing."""
    if not experiment.reproduces or table is not None:
        return ""
    names = [name for network in NETWORKS.get(experiment.reproduces, ()) for name in network.models[:1]]
    wanted = f"models named {', '.join(names)}" if names else "models trained or fine-tuned as its rows say"
    return (
        f"{TITLES[experiment.reproduces]} of the paper cannot be set out: no row of it was measured; it needs {wanted}."
    )
