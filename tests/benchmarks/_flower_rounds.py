"""Drives stock Flower: `flower-superlink`, three `flower-supernode`, its FedAvg, and a ClientApp that does not train.

`python _flower_rounds.py FOLDER`. Everything is as Flower has it by default, with TLS.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from _driven import SITES, Setup
from federation.flower_app import write_app

from common.processes import ProcessTree, flower_command, flower_environment, free_port
from server.control import Control
from server.daemons import HOST, start_daemon
from server.provision import Certificates, make_certificates

LOOK_S = 0.1
START_S = 120.0
ASK_EVERY_S = 60.0
"""Asking for a run's state starts a process, which would be felt."""
CLIENT = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    arrays = message.content["arrays"].to_numpy_ndarrays()
    step = 1e-3 * (1 + context.node_config["partition-id"])
    for array in arrays:
        array += step
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 3})})
    return Message(content=content, reply_to=message)
"""
SERVER = """\
import time
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from safetensors.numpy import load_file

app = ServerApp()

@app.main()
def main(grid, context):
    def mark(number, arrays):
        with open(context.run_config["marks"], "a") as file:
            file.write(f"{time.time()}\\n")

    arrays = ArrayRecord(list(load_file(context.run_config["model"]).values()))
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    strategy.start(grid, arrays, num_rounds=int(context.run_config["rounds"]), evaluate_fn=mark)
"""


@contextmanager
def running(setup: Setup, certificates: Certificates) -> Iterator[Control]:
    """A SuperLink and a SuperNode for each site."""
    port, control = free_port(), Control(setup.folder / "flwr")
    control.configure(f"{HOST}:{port}", certificates.authority)
    environment = flower_environment(control.home)
    with ExitStack() as stack:
        superlink = ProcessTree("superlink", setup.folder / "superlink")
        stack.callback(superlink.stop)
        command = [flower_command("flower-superlink"), "--host", HOST, "--port", str(port)]
        command += ["--ssl-certfile", str(certificates.certificate), "--ssl-keyfile", str(certificates.key)]
        command += ["--ssl-ca-certfile", str(certificates.authority), "--disable-runtime-dependency-installation"]
        start_daemon(superlink, command, environment, port, certificates.authority, START_S)
        for number, site in enumerate(SITES):
            node = ProcessTree("supernode", setup.folder / f"site-{site}")
            stack.callback(node.stop)
            command = [flower_command("flower-supernode"), "--superlink", f"localhost:{setup.port_for(site, port)}"]
            command += ["--root-certificates", str(certificates.authority), "--host", HOST, "--port", str(free_port())]
            node.start([*command, "--node-config", f"partition-id={number}"], environment)
        yield control


def wait(control: Control, run_id: int, marks: Path, num_marks: int) -> list[float]:
    """Returns the times in `marks` once there are so many; ends with what Flower says of a run that failed."""
    asked = time.monotonic()
    while True:
        found = [float(line) for line in marks.read_text().splitlines()]
        if len(found) == num_marks:
            return found
        if time.monotonic() > asked + ASK_EVERY_S:
            asked = time.monotonic()
            run = control.status(run_id)
            if run.finished:
                raise SystemExit(f"{run.status}: {run.details}")
        time.sleep(LOOK_S)


def main() -> None:
    """Starts all, runs the app, and tells its times."""
    setup = Setup.read()
    certificates = make_certificates(setup.folder / "pki", ["localhost"])
    marks = setup.folder / "marks"
    marks.touch()
    began = time.time()
    with running(setup, certificates) as control:
        config = {"model": setup.model, "marks": str(marks), "rounds": str(setup.rounds)}
        app = write_app(setup.folder / "app", "rounds", setup.client(CLIENT), SERVER, tuple(config))
        run_id = control.run(app, config)
        setup.tell(began, wait(control, run_id, marks, setup.rounds + 1))


if __name__ == "__main__":
    main()
