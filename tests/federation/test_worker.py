"""Training under an account of its own, which cannot reach the key: a real federation with two accounts."""

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from client.audit import AuditLog
from client.health import NODE, worker_health
from client.keys import make_key
from client.node import SiteNode, WorkerLink
from client.pseudonyms import FILE_NAME as PSEUDONYMS
from client.worker_account import make_secret, share_with_worker
from common.enrolment import read_join_request
from common.experiment import Experiment
from common.private import private_folder
from common.processes import free_port
from common.settings import load_yaml
from common.site_config import SiteConfig
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from server.launch import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tls,
    pytest.mark.timeout(300),
]
WORKER, GROUP = 64102, 64100


@pytest.fixture(scope="module")
def commands():
    """Folder of the commands as other accounts can run them: this interpreter's, or else of the system's Python."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run the worker under another account")
    if worker_runs(sys.executable):
        yield Path(sys.executable).parent
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        if not worker_runs(other := environment_of("/usr/bin/python3", Path(folder))):
            pytest.skip(f"no interpreter that other accounts can run: neither {sys.executable} nor /usr/bin/python3")
        yield other.parent


def worker_runs(python):
    """Whether the worker's account can run an interpreter, and fedgtv with it."""
    # through a shell: what setpriv itself starts is still found with root's rights
    line = as_worker("sh", "-c", f"'{python}' -c 'import flwr, client'")
    return subprocess.run(line, capture_output=True, check=False, cwd="/").returncode == 0


def environment_of(python, folder):
    """The interpreter of a virtual environment of `python`, with this one's packages and commands."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=False)
    made, here = folder / "bin" / "python", Path(sys.executable).parent
    packages = [*site.getsitepackages(), str(Path(__file__).parents[2])]
    for place in (folder / "lib").glob("python*/site-packages"):
        (place / "fedgtv.pth").write_text("\n".join(packages))
    for script in [*here.glob("fedgtv-*"), *here.glob("flower-*"), *here.glob("flwr*")]:
        copied = folder / "bin" / script.name
        copied.write_text(f"#!{made}\n" + script.read_text().partition("\n")[2])
        copied.chmod(0o755)
    return made


@pytest.fixture
def hospital(tiny_cases):
    """The site.yaml of a hospital with cases of its own, in a folder that other accounts can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder)
        home.chmod(0o755)
        address = f"127.0.0.1:{free_port()}"
        told = {"site": "A", "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1}}
        (home / "site.yaml").write_text(json.dumps(told | {"worker": {"group": str(GROUP), "address": address}}))
        shutil.copytree(tiny_cases, home / "cases")
        (home / "cases" / PSEUDONYMS).write_text("{}")
        (home / "cases" / PSEUDONYMS).chmod(0o600)
        private_folder(home / "state")
        make_key("A", home / "keys")
        yield home / "site.yaml"


def two_rounds(recipe):
    steps = (
        StatisticsStep(kind="statistics"),
        TrainStep(kind="train", model="federated", rounds=2, local_epochs=1),
    )
    split = SplitConfig(test_fraction=0.3, validation_fraction=0.2)
    return Experiment(reuse=False, name="apart", sites=("A",), recipe=recipe, split=split, steps=steps)


def as_worker(*command):
    return ["setpriv", f"--reuid={WORKER}", f"--regid={GROUP}", "--clear-groups", *command]


@contextmanager
def worker(commands, config):
    with subprocess.Popen(
        as_worker(str(commands / "fedgtv-site"), "work", "--config", str(config)), env=os.environ | {"HOME": "/tmp"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 130


def denied(*command):
    """Whether the worker's account may not do it."""
    done = subprocess.run(as_worker(*command), capture_output=True, text=True, check=False)
    assert ("Permission denied" in done.stderr) == (done.returncode != 0)
    return done.returncode != 0


def test_a_round_is_trained_by_an_account_that_cannot_reach_the_key(commands, hospital, start_federation, tiny_recipe):
    home, config = hospital.parent, load_yaml(hospital, SiteConfig)
    share_with_worker(config, home)
    federation = start_federation({})
    superlink = federation.superlink
    superlink.enrol(read_join_request(home / "keys" / "A.join.json"))
    link = WorkerLink(config.worker.address, make_secret(home / "work"))
    node = SiteNode(
        "A", home / "state" / NODE, superlink.address.replace("127.0.0.1", "localhost"),
        superlink.certificates.authority, home / "keys" / "site.key", hospital, worker=link,
    )  # fmt: skip
    told = []
    with ExitStack() as stack:
        stack.enter_context(node).wait_online(90.0)
        running = stack.enter_context(worker(commands, hospital))
        assert "worker started, for the node at" in running.stdout.readline()
        assert worker_health(config, home).good
        launch(superlink.control, superlink.folder, two_rounds(tiny_recipe), "apart", told.append)
        assert "statistics: " in running.stdout.readline()
    assert [record["dropped"] for record in told if record["kind"] == "round"] == [{}, {}]
    assert not worker_health(config, home).good
    assert {path.stat().st_uid for path in (home / "work" / "cache").rglob("*")} == {WORKER}
    assert [each["event"] for each in AuditLog(home / "state").read().records].count("outgoing") == 3

    for secret in ("keys/site.key", f"cases/{PSEUDONYMS}", "state/audit.jsonl"):
        assert denied("cat", str(home / secret))
    assert denied("touch", str(home / "cases" / "new"))
    assert not denied("cat", str(home / "cases" / "cases.json"))


def test_the_account_that_holds_the_key_does_not_train(commands, hospital):
    share_with_worker(load_yaml(hospital, SiteConfig), hospital.parent)
    done = subprocess.run(
        [str(commands / "fedgtv-site"), "work", "--config", str(hospital)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {hospital.parent / 'keys' / 'site.key'}: the account that trains can read it;"
    )
