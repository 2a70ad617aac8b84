"""A run of so many sites and rounds over a model of so many MB, without training: its memory, round by round, as JSON.

`python memory_run.py SITES ROUNDS MEGABYTES FOLDER`. Sites and coordinator share this process.
"""

import json
import os
import sys
from contextlib import closing
from pathlib import Path

from federation.sized import sized_recipe
from flwr.app import ArrayRecord, Context, Message

from common import wire
from common.experiment import Experiment
from common.statistics import HuHistogram
from common.steps import StatisticsStep, TrainStep
from common.tasks import EpochRecord, SiteStatistics, StatisticsTask, TrainResult
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server.experiment import run_experiment
from server.ledger import Ledger
from server.sites import Sites
from server.watch import Watch


def client_app(message: Message, _: Context) -> Message:
    """Answers with the weights as they came, but for the first number."""
    task = wire.read_any_task(message)
    if isinstance(task, StatisticsTask):
        told = SiteStatistics(train=4, validation=1, test=1, seconds=0.0)
        histogram = HuHistogram.from_values([-100, 0, 100, 200]).to_array()
        return Message(wire.statistics_reply(told, histogram), reply_to=message)
    received = wire.record_to_weights(wire.records(message.content, ArrayRecord)[wire.ARRAYS])
    first = next(iter(received))
    weights = {**received, first: received[first].copy()}
    weights[first].reshape(-1)[0] += 1e-3
    epochs = (EpochRecord(epoch=task.epochs_done, lr=0.1, losses={"stage1": 0.5}),)
    result = TrainResult(
        model=task.model, round=task.round, num_examples=4, epochs=epochs, validation_dsc=None, seconds=0.0
    )
    return Message(wire.train_reply(weights, received, result, task.transport), reply_to=message)


def resident(field: str) -> float:
    """MB in this process's memory: VmRSS now, VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def main(num_sites: int, num_rounds: int, megabytes: float, folder: Path) -> None:
    server_sites.POLL_MAX_S = 0.1
    os.fsync = lambda handle: None  # a slow disk would say nothing of memory
    sites = tuple(f"S{number:02d}" for number in range(num_sites))
    experiment = Experiment(
        name="memory",
        sites=sites,
        recipe=sized_recipe(megabytes),
        steps=(StatisticsStep(kind="statistics"), TrainStep(kind="train", model="m", rounds=num_rounds)),
    )
    resident_mb: list[float] = []

    def on_record(record: dict) -> None:
        if record["kind"] == "round":
            resident_mb.append(resident("VmRSS"))

    ledger = Ledger(folder, experiment, on_record)
    with closing(InProcessGrid(client_app, dict.fromkeys(sites, folder / "site.yaml"))) as grid:
        run_experiment(experiment, ledger, Sites(grid, grid.node_ids, experiment.rounds, Watch(folder, ledger.append)))
    size = sum(array.nbytes for array in ledger.load_model("m").values())
    told = {"model_mb": size / 1e6, "resident_mb": resident_mb, "peak_mb": resident("VmHWM")}
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
