"""`make test-images`: the images, built and entered, and a federation of two rounds in them. As root, on Debian.

Three hospitals' phantoms are imported and checked in the site image; each hospital runs node and worker as
deploy/compose says, under their two accounts; the coordinator's image runs SuperLink and gateway. One node is killed
and must come back. What is done and seen is printed, and kept in runs/images.log.
"""

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import yaml
from images.buildah import Service, build, call, config, make_base, need_tools, size_gb

from common.experiment import load_experiment
from common.processes import free_port
from deploy.cohorts import write_exports

SITE, COORDINATOR = "localhost/fedgtv-site", "localhost/fedgtv-coordinator"
LARGEST_GB = 2.0
COMPOSE = Path("deploy/compose")
OUT = Path("runs/images")
ONLINE_S = 180.0
EXPERIMENT = """\
name: images
seed: 1
sites: [A, B, C]
recipe: {recipe}
split: {{test_fraction: 0.34, validation_fraction: 0.2}}
simulation: {{source: phantoms, seed: 3, cases: {{A: 5, B: 5, C: 5}}, scale: 0.25, contrast: 3.0}}
steps:
  - {{kind: statistics}}
  - {{kind: train, model: federated, rounds: 2, local_epochs: 1}}
  - {{kind: evaluate, models: [federated]}}
"""


class Log:
    """Prints what is done, with the seconds since the start, and keeps it."""

    def __init__(self, path):
        self.started, self.file = time.monotonic(), path.open("w")

    def __call__(self, text):
        for line in text.rstrip().splitlines():
            whole = f"{time.monotonic() - self.started:6.0f} s  {line}"
            print(whole, flush=True)
            print(whole, file=self.file, flush=True)


def services(kind):
    """The services of one Compose file."""
    return yaml.safe_load((COMPOSE / kind / "compose.yaml").read_text())["services"]


def folder_of_account(path):
    """A folder that belongs to the images' account, as docs/containers.md has it made."""
    path.mkdir(parents=True)
    call("chown", "10001:10000", path)
    return path


def check_image(tag, say):
    """No root, a health check, within its size, and nothing secret in it."""
    told = config(tag)
    assert told["User"] == "10001:10000", told["User"]
    assert told["HealthCheck" if "HealthCheck" in told else "Healthcheck"], "no health check"
    container = call("buildah", "from", tag).strip()
    try:
        root = Path(call("buildah", "mount", container).strip())
        homes = [root / "site", root / "coordinator", root / "tmp", root / "root"]
        found = [path for home in homes if home.exists() for path in home.rglob("*") if path.is_file()]
        found += (root / "opt").rglob("*.key")
        kept = [path for path in found if path.name not in (".bashrc", ".profile")]
        assert not kept, f"{tag} holds {kept[:5]}"
    finally:
        call("buildah", "rm", container)
    size = size_gb(tag)
    say(f"{tag}: {size:.2f} GB, user {told['User']}, no keys, no files of a site")
    return size


def wait_for(condition, what, timeout_s=ONLINE_S):
    """Returns the seconds until `condition()`; ends the test if it never comes."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise SystemExit(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(1.0)
    return time.monotonic() - started


class Hospital:
    """One site in its two containers."""

    def __init__(self, site, folder, port, stack):
        self.site, self.folder = site, folder
        folder_of_account(folder / "site")
        specs = services("site")
        address = f"127.0.0.1:{port}"
        environment = {"FEDGTV_WORKER_GROUP": "fedgtv", "FEDGTV_WORKER_ADDRESS": address, "OMP_NUM_THREADS": "1"}
        self.node = Service("node", SITE, specs["node"], folder, environment)
        stack.callback(self.node.remove)
        self.worker = Service("worker", SITE, specs["worker"], folder, {"OMP_NUM_THREADS": "1"})
        stack.callback(self.worker.remove)
        self.work = ["work", "--node", address]  # the Compose file's `node:9094`, on this machine's network

    def start(self, stack):
        self.running = {}
        for service, command in ((self.node, None), (self.worker, self.work)):
            self.running[service] = service.start(self.folder / f"{service.name}.log", command)
            stack.callback(service.kill)

    def is_online(self):
        line = self.node.command(["health", "--node"])
        return call_quietly(line) == 0


def call_quietly(line):
    import subprocess

    return subprocess.run(line, capture_output=True, check=False).returncode


def hardened(service, say):
    """The account's capabilities are none, and no program gives it any."""
    told = service.run("grep", "-E", "^(CapEff|CapPrm|NoNewPrivs)", "/proc/self/status", entrypoint=False)
    assert {tuple(line.split()) for line in told.splitlines()} == {
        ("CapPrm:", "0" * 16), ("CapEff:", "0" * 16), ("NoNewPrivs:", "1"),
    }, told  # fmt: skip
    say(f"{service.name}: no capabilities, no new privileges")


def forbidden(hospital, say):
    """What the worker's container cannot do."""
    hardened(hospital.worker, say)
    for path in ("/site/keys/site.key", "/site/cases/pseudonyms.json", "/site/state/audit.jsonl"):
        told = hospital.worker.run("cat", path, entrypoint=False, expected=1)
        assert "No such file" in told or "Permission denied" in told, told
        say(f"site {hospital.site}: worker: {told.splitlines()[0]}")
    told = hospital.worker.run("touch", "/site/cases/new", entrypoint=False, expected=1)
    assert not (hospital.folder / "site" / "cases" / "new").exists()
    say(f"site {hospital.site}: worker: {told.splitlines()[0]}")


def main():
    """Everything, in order."""
    OUT.mkdir(parents=True, exist_ok=True)
    call("rm", "-rf", *OUT.iterdir())
    say = Log(OUT.parent / "images.log")
    need_tools()
    base = make_base()
    for target, tag in (("site", SITE), ("coordinator", COORDINATOR)):
        say(f"build {target} on {base}")
        build(target, tag, base)
    assert check_image(SITE, say) < LARGEST_GB
    check_image(COORDINATOR, say)
    with ExitStack() as stack:
        federate(say, stack)
    say("all of it as expected")


def federate(say, stack):
    """Three hospitals and a coordinator, from nothing to a report."""
    experiment = OUT / "experiment.yaml"
    experiment.write_text(EXPERIMENT.format(recipe=Path("configs/recipes/demo.yaml").resolve()))
    write_exports(load_experiment(experiment), OUT / "exports", say)

    port = free_port()
    home = folder_of_account(OUT / "federation" / "coordinator")
    spec = services("coordinator")["coordinator"]
    coordinator = Service("coordinator", COORDINATOR, spec, home.parent, {"OMP_NUM_THREADS": "1"})
    stack.callback(coordinator.remove)
    say(coordinator.run("init", f"localhost:{port}"))
    up = coordinator.start(OUT / "coordinator.log", ["up", "--gateway"])
    stack.callback(coordinator.kill)
    wait_for(lambda: call_quietly(coordinator.command(["health"])) == 0, "coordinator")
    say(coordinator.run("health"))
    hardened(coordinator, say)

    hospitals = [join(site, coordinator, home, stack, say) for site in "ABC"]
    for hospital in hospitals:
        seconds = wait_for(hospital.is_online, f"site {hospital.site}")
        say(f"site {hospital.site}: {hospital.node.run('health').strip()} (after {seconds:.0f} s)")
        forbidden(hospital, say)

    say(run(coordinator, home, experiment))
    for hospital in hospitals:
        say(f"site {hospital.site}: " + hospital.node.run("audit").splitlines()[-1])
        owners = {path.stat().st_uid for path in (hospital.folder / "site" / "work" / "cache").rglob("*.npy")}
        assert owners == {10002}, f"the cache belongs to {owners}"

    crash(hospitals[0], say, stack)
    for hospital in hospitals:
        for service, running in hospital.running.items():
            say(f"site {hospital.site}: {service.name} stopped in {service.stop(running):.1f} s")
    say(f"coordinator stopped in {coordinator.stop(up):.1f} s")
    for service in (coordinator, *(each for hospital in hospitals for each in (hospital.node, hospital.worker))):
        assert service.written() == [], f"{service.name}: wrote {service.written()[:5]}"
    say("no service wrote anything outside its mounts and /tmp")


def join(site, coordinator, home, stack, say):
    """From nothing to joined, as docs/containers.md has it."""
    folder = OUT / f"hospital-{site}"
    folder.mkdir()
    (folder / "export").symlink_to((OUT / "exports" / site).resolve())
    hospital = Hospital(site, folder, free_port(), stack)
    say(hospital.node.run("init", site))
    call("cp", folder / "site/keys" / f"{site}.join.json", home)
    call("chmod", "644", home / f"{site}.join.json")
    say(coordinator.run("enrol", f"{site}.join.json"))
    call("cp", home / f"{site}.kit.json", folder / "site")
    call("chmod", "644", folder / "site" / f"{site}.kit.json")
    say(hospital.node.run("init", "--kit", f"{site}.kit.json"))
    allow(folder / "site/site.yaml")
    say(hospital.node.run("import", "/export"))
    say("\n".join(hospital.node.run("check").splitlines()[-3:]))
    hospital.start(stack)
    return hospital


def allow(path):
    """Phantoms are nobody: metrics over few of them may leave."""
    site = yaml.safe_load(path.read_text())
    site["policy"]["min_cases"] = 1
    site["num_threads"] = 1
    path.write_text(yaml.safe_dump(site))


def run(coordinator, home, experiment):
    """The experiment, in the coordinator's image."""
    call("cp", experiment, home / "images.yaml")
    text = (
        (home / "images.yaml")
        .read_text()
        .replace(str(Path("configs/recipes").resolve()), "/usr/share/fedgtv/configs/recipes")
    )
    (home / "images.yaml").write_text(text)
    told = coordinator.run("run", "images.yaml")
    ledger = home / "federation/superlink/runs/images/ledger.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    rounds = [record for record in records if record["kind"] == "round"]
    assert [record["dropped"] for record in rounds] == [{}, {}], rounds
    assert (ledger.parent / "report.html").exists()
    return told


def crash(hospital, say, stack):
    """A power cut at one node: started again, it is let in once its old lease has run out."""
    hospital.node.kill()
    hospital.running[hospital.node].wait(30)
    hospital.running[hospital.node] = hospital.node.start(hospital.folder / "node.log")
    seconds = wait_for(hospital.is_online, f"site {hospital.site} after a kill")
    starts = (hospital.folder / "node.log").read_text().count("node online as")
    assert starts == 2, f"{starts} times online"
    say(f"site {hospital.site}: node killed (SIGKILL), started again, online after {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
