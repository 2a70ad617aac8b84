"""A run's curves for TensorBoard, and its parameters and metrics for MLflow; both from the run's folder alone.

Nothing goes out that the ledger does not hold. Ratios are 0 to 1 and distances in mm, as there.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from server.curves import STAGES
from server.lineage import lineages
from server.matrix import build_matrices
from server.metric import METRICS
from server.run_record import RoundLine, RunRecord

MAX_BATCH = {"params": 100, "metrics": 1000}
"""What MLflow's servers take at once."""
MAX_VALUE = 500
"""Characters of a parameter; older MLflow servers take no more."""
NO_MLFLOW = "MLflow is not installed; install it with `pip install 'fedgtv[mlflow]'` and export again"


@dataclass(frozen=True)
class Scalar:
    """One point of one curve of one model; `step` counts epochs."""

    model: str
    tag: str
    step: int
    value: float


def scalars(record: RunRecord) -> Iterator[Scalar]:
    """Yields losses by epoch, validation DSC by epochs done, and the matrix at each model's last epoch."""
    for line in record.rounds:
        yield from _of_round(line, getattr(record.experiment.steps[line.step], "local_epochs", 1))
    known = lineages(record.experiment)
    for matrix in build_matrices(record):
        for (model, site), metric in ((key, metric) for key in matrix.results for metric in METRICS):
            mean = matrix.mean(model, site, metric.key)
            if mean is not None:
                epochs = known[model].epochs if model in known else 0
                yield Scalar(model, f"{matrix.split}/{metric.key}/{site}", epochs, mean)


def _of_round(line: RoundLine, local_epochs: int) -> Iterator[Scalar]:
    for site, report in line.sites.items():
        for epoch, stage in ((epoch, stage) for epoch in report.epochs for stage in STAGES):
            loss = getattr(epoch, stage)
            if loss is not None:
                yield Scalar(line.model, f"loss/{stage}/{site}", epoch.epoch + 1, loss)
        if report.validation_dsc is not None:
            done = (line.round - 1) * local_epochs  # it is that of the model the round started from
            yield Scalar(line.model, f"validation_dsc/{site}", done, report.validation_dsc)


def parameters(record: RunRecord) -> dict[str, str]:
    """Returns every setting of the experiment by its dotted path."""
    told = dict(_flat(record.experiment.model_dump(mode="json"), ""))
    return {key: str(value)[:MAX_VALUE] for key, value in told.items()}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, inner in enumerate(value, 1):
            yield from _flat(inner, f"{path}.{number}")
    else:
        yield path, value


def to_tensorboard(record: RunRecord, folder: Path) -> int:
    """Writes `folder`/MODEL for TensorBoard; returns the number of points.

    Raises:
        InputError: the folder holds something already: curves would stand there twice.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty; name a new folder for TensorBoard")
    from tensorboardX import SummaryWriter

    by_model: dict[str, list[Scalar]] = {}
    for point in scalars(record):
        by_model.setdefault(point.model, []).append(point)
    for model, points in by_model.items():
        with SummaryWriter(str(folder / model)) as writer:
            for point in sorted(points, key=lambda point: (point.tag, point.step)):
                writer.add_scalar(point.tag, point.value, point.step)
    return sum(map(len, by_model.values()))


def to_mlflow(record: RunRecord, uri: str) -> str:
    """Logs the run to the MLflow server or store at `uri`, the report with it; returns MLflow's id of it.

    The experiment there is named like ours, the run like its folder.

    Raises:
        InputError: MLflow is not installed.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError as error:
        raise InputError(NO_MLFLOW) from error
    client = MlflowClient(tracking_uri=uri)
    named = client.get_experiment_by_name(record.experiment.name)
    experiment = named.experiment_id if named else client.create_experiment(record.experiment.name)
    run: str = client.create_run(experiment, run_name=record.folder.resolve().name).info.run_id
    params = [Param(key, value) for key, value in parameters(record).items()]
    now_ms = round(1000 * time.time())
    metrics = [Metric(f"{point.model}/{point.tag}", point.value, now_ms, point.step) for point in scalars(record)]
    for kind, told in (("params", params), ("metrics", metrics)):
        for start in range(0, len(told), MAX_BATCH[kind]):
            client.log_batch(run, **{kind: told[start : start + MAX_BATCH[kind]]})
    if (record.folder / "report.html").exists():
        client.log_artifact(run, str(record.folder / "report.html"))
    client.set_terminated(run)
    return run
