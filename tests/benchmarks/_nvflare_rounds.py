"""Drives NVFlare 2.9: a provisioned server and three clients, its FedAvg, and a script that does not train.

`python _nvflare_rounds.py FOLDER`. Everything is as its recipe for FedAvg over numpy arrays has it, with mutual TLS,
but for the persistor: the recipe's holds one array, and a model has many.
"""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from _driven import SITES, Setup
from _peers import peer

from common.processes import ProcessTree, flower_command, flower_environment, free_port

LOOK_S = 0.1
ASK_EVERY_S = 60.0
CONNECT_S = 120.0
MARKS = re.compile(r"^([-\d]+ [:,\d]+) - FedAvg - .*\n[-=]+\n *(?:Round \d+ started|Finished FedAvg)\.", re.M)
ADMIN = "admin@nvidia.com"
BUILDERS = (
    ("workspace.WorkspaceBuilder", {"template_file": ["master_template.yml"]}),
    ("static_file.StaticFileBuilder", {"config_folder": "config"}),
    ("cert.CertBuilder", {}),
    ("signature.SignatureBuilder", {}),
)
CLIENT = """\
import nvflare.client as flare

flare.init()
step = 1e-3 * (1 + ord(flare.get_site_name()[-1]) % 32)
while flare.is_running():
    model = flare.receive()
    params = {name: array + step for name, array in model.params.items()}
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 3}))
"""
PERSISTOR = """\
import os
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from safetensors.numpy import load_file, save_file

class ManyArrays(ModelPersistor):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def load_model(self, fl_ctx):
        return make_model_learnable(weights=load_file(self.path), meta_props={})

    def save_model(self, model, fl_ctx):
        root = fl_ctx.get_workspace().get_result_root(fl_ctx.get_job_id())
        os.makedirs(root, exist_ok=True)
        save_file(model[ModelLearnableKey.WEIGHTS], os.path.join(root, "model.safetensors"))
"""


def provision(setup: Setup) -> Path:
    """Makes the certificates and start-up kits, and returns the folder of the kits."""
    port = free_port()
    server = {"name": "localhost", "type": "server", "org": "rounds", "fed_learn_port": port, "admin_port": free_port()}
    clients = [
        {"name": f"site-{site}", "type": "client", "org": "rounds"}
        | {"connect_to": {"host": "localhost", "port": setup.port_for(site, port)}}
        for site in SITES
    ]
    admin = {"name": ADMIN, "type": "admin", "org": "rounds", "role": "project_admin"}
    builders = [{"path": f"nvflare.lighter.impl.{path}", "args": arguments} for path, arguments in BUILDERS]
    project = {"api_version": 3, "name": "rounds", "participants": [server, *clients, admin], "builders": builders}
    path = setup.folder / "project.yml"
    path.write_text(yaml.safe_dump(project, sort_keys=False))
    command = [flower_command("nvflare"), "provision", "-p", str(path), "-w", str(setup.folder / "kits")]
    subprocess.run(command, check=True, cwd=setup.folder, stdin=subprocess.DEVNULL)
    return setup.folder / "kits" / "rounds" / "prod_00"


def write_job(setup: Setup) -> Path:
    """Writes the job as NVFlare's recipe exports it, but for model selection, and returns its folder."""
    fedavg = {"path": "nvflare.app_common.workflows.fedavg.FedAvg", "args": {"num_rounds": setup.rounds}}
    persistor = {"id": "persistor", "path": "persistor.ManyArrays", "args": {"path": setup.model}}
    server = {"format_version": 2, "workflows": [{"id": "controller", **fedavg}], "components": [persistor]}
    arguments = {
        "execution_mode": "in_process",
        "task_script_path": "idle.py",
        "params_exchange_format": "numpy",
    }
    executor = {"path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor", "args": arguments}
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": executor}], "components": []}
    meta = {"name": "rounds", "resource_spec": {}, "min_clients": len(SITES), "deploy_map": {"app": ["@ALL"]}}
    job = setup.folder / "job"
    for name in ("config", "custom"):
        (job / "app" / name).mkdir(parents=True)
    (job / "meta.json").write_text(json.dumps(meta))
    (job / "app" / "config" / "config_fed_server.json").write_text(json.dumps(server))
    (job / "app" / "config" / "config_fed_client.json").write_text(json.dumps(client))
    (job / "app" / "custom" / "idle.py").write_text(setup.client(CLIENT))
    (job / "app" / "custom" / "persistor.py").write_text(PERSISTOR)
    return job


@contextlib.contextmanager
def running(kits: Path) -> Iterator[None]:
    """The server and a client for each site, by the scripts of their kits."""
    environment = flower_environment(kits / "flwr")
    with ExitStack() as stack:
        for name in ("localhost", *(f"site-{site}" for site in SITES)):
            tree = ProcessTree("nvflare", kits / name)
            stack.callback(tree.stop)
            tree.start(["bash", str(kits / name / "startup" / "sub_start.sh")], environment)
        yield


@contextlib.contextmanager
def connected(kits: Path) -> Iterator[Any]:
    """The administrator's session, once all clients are connected."""
    api = peer("nvflare.fuel.flare_api.flare_api")
    session = until(lambda: api.new_secure_session(ADMIN, str(kits / ADMIN), command_timeout=CONNECT_S))
    try:
        until(lambda: len(session.get_system_info().client_info) == len(SITES))
        yield session
    finally:
        session.close()


def until(ask: Callable[[], Any]) -> Any:
    """Returns what `ask` returns once that is something, whatever it raises before."""
    deadline = time.monotonic() + CONNECT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if found := ask():
                return found
        time.sleep(LOOK_S)
    raise SystemExit(f"not connected within {CONNECT_S:.0f} s")


def wait(session: Any, job_id: str, log: Path, num_marks: int) -> list[float]:
    """Returns the times in the log of the server's job once there are so many; ends when the job has failed."""
    asked = time.monotonic()
    while len(marks := marks_of(log.read_text() if log.exists() else "")) < num_marks:
        if time.monotonic() > asked + ASK_EVERY_S:
            asked, status = time.monotonic(), str(session.get_job_status(job_id))
            if status.startswith("FINISHED"):
                raise SystemExit(f"the job has ended: {status}")
        time.sleep(LOOK_S)
    return marks


def marks_of(log: str) -> list[float]:
    """Returns when each round began and, once it has, when the last one ended, by the log of the server's job.

    The words stand some lines below the time.
    """
    return [datetime.strptime(time, "%Y-%m-%d %H:%M:%S,%f").timestamp() for time in MARKS.findall(log)]


def main() -> None:
    """Starts all, runs the job, and tells its times."""
    setup = Setup.read()
    peer("nvflare")
    kits, job = provision(setup), write_job(setup)
    began = time.time()
    with running(kits), connected(kits) as session:
        job_id = session.submit_job(str(job))
        marks = wait(session, job_id, kits / "localhost" / job_id / "log.txt", setup.rounds + 1)
    setup.tell(began, marks)


if __name__ == "__main__":
    main()
