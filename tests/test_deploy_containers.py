"""Dockerfile, Compose files and manifests: what they promise about accounts, mounts and networks.

That the images are built and work is shown by `make test-images`.
"""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import client.cli
import server.cli

DEPLOY = Path(__file__).parents[1] / "deploy"
NODE, WORKER, GROUP = 10001, 10002, 10000
COMMANDS = {"fedgtv-site": client.cli.app, "fedgtv-coordinator": server.cli.app}


def compose(kind):
    return yaml.safe_load((DEPLOY / "compose" / kind / "compose.yaml").read_text())


SERVICES = {(kind, name): spec for kind in ("site", "coordinator") for name, spec in compose(kind)["services"].items()}


def manifests(name):
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())}


def pods():
    """(file, the pod's spec, one of its containers)"""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found = manifests(path.name)
        pod = found["Pod"]["spec"] if "Pod" in found else found["StatefulSet"]["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield pytest.param(pod, container, id=f"{path.stem}-{container['name']}")


def test_the_dockerfile_makes_the_accounts_that_the_files_name():
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"groupadd --gid {GROUP} fedgtv" in text
    assert re.findall(r"useradd --uid (\d+) --gid fedgtv .* (\w+)$", text.replace(" \\\n", "\n"), re.MULTILINE) == [
        (str(NODE), "fedgtv"), (str(WORKER), "worker"),
    ]  # fmt: skip
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert [re.search(r" AS (\w+)$", stage.splitlines()[0])[1] for stage in stages] == [
        "packages", "base", "site", "coordinator",
    ]  # fmt: skip
    for stage in stages[2:]:
        assert f"\nUSER {NODE}:{GROUP}\nE" in stage
        assert "\nHEALTHCHECK " in stage


def test_only_named_folders_reach_the_build():
    ignored, *named = (DEPLOY.parent / ".dockerignore").read_text().split()
    assert ignored == "*"
    assert {each.removeprefix("!") for each in named if each.startswith("!")} == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "common", "client", "server", "deploy", "configs",
    }  # fmt: skip


@pytest.mark.parametrize("key", SERVICES)
def test_a_service_has_no_root_no_capabilities_and_a_closed_file_system(key):
    spec = SERVICES[key]
    assert spec["user"] in (f"{NODE}:{GROUP}", f"{WORKER}:{GROUP}")
    assert (spec["read_only"], spec["cap_drop"], spec["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert spec["restart"] == "unless-stopped"


@pytest.mark.parametrize(("pod", "container"), list(pods()))
def test_a_pod_has_no_root_no_capabilities_and_a_closed_file_system(pod, container):
    context = pod["securityContext"] | container["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"]) in ((NODE, GROUP), (WORKER, GROUP))
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_the_worker_sees_cases_to_read_work_to_write_and_nothing_else():
    composed = {each["target"]: bool(each.get("read_only")) for each in SERVICES["site", "worker"]["volumes"]}
    pod = manifests("site.yaml")["StatefulSet"]["spec"]["template"]["spec"]
    (worker,) = [each for each in pod["containers"] if each["name"] == "worker"]
    mounted = {
        each["mountPath"]: bool(each.get("readOnly")) for each in worker["volumeMounts"] if each["name"] == "site"
    }
    assert composed == mounted == {"/site/site.yaml": True, "/site/cases": True, "/site/work": False}
    assert SERVICES["site", "worker"]["user"] == f"{WORKER}:{GROUP}"
    assert worker["securityContext"]["runAsUser"] == WORKER


def test_the_worker_has_no_way_out_and_the_coordinator_one_port():
    networks = compose("site")["networks"]
    (inside,) = [networks[name] for name in SERVICES["site", "worker"]["networks"]]
    # `internal` alone leaves a way to what this machine itself serves
    isolated = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    assert inside == {"internal": True, "driver_opts": isolated}
    assert SERVICES["site", "node"].get("ports") is None
    ingress = {name: spec.get("ingress") for name, spec in policies().items()}
    gateway = [{"ports": [{"port": 8443, "protocol": "TCP"}]}]
    assert ingress == {"site": None, "site-setup": None, "coordinator-setup": None, "coordinator": gateway}


UNPRIVILEGED = "net.ipv4.ip_unprivileged_port_start"


def test_the_coordinator_can_listen_on_any_port_of_its_address_without_rights():
    """The gateway listens on the address's own port, so the container's and the published one are the same."""
    service = SERVICES["coordinator", "coordinator"]
    assert service["ports"] == ["${FEDGTV_PORT:-8443}:${FEDGTV_PORT:-8443}"]
    assert service["sysctls"] == {UNPRIVILEGED: "0"}
    pod = manifests("coordinator.yaml")["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [{"name": UNPRIVILEGED, "value": "0"}]


def policies():
    """The NetworkPolicy of each manifest, which is that of its own pod."""
    found = {}
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        parts = manifests(path.name)
        labels = parts["Pod"]["metadata"] if "Pod" in parts else parts["StatefulSet"]["spec"]["template"]["metadata"]
        found[path.stem] = parts["NetworkPolicy"]["spec"]
        assert found[path.stem]["podSelector"] == {"matchLabels": labels["labels"]}
        assert found[path.stem]["policyTypes"] == ["Ingress", "Egress"]
    return found


def test_a_hospital_s_pods_may_call_the_same_places_and_the_coordinator_s_none():
    egress = {name: spec.get("egress") for name, spec in policies().items()}
    assert egress["coordinator"] is egress["coordinator-setup"] is None
    assert egress["site"] == egress["site-setup"]


@pytest.mark.parametrize("kind", ["site", "coordinator"])
def test_the_volume_is_there_before_init_and_what_mounts_its_files_after(kind):
    setup, running = manifests(f"{kind}-setup.yaml"), manifests(f"{kind}.yaml")
    assert "PersistentVolumeClaim" not in running
    (claim,) = [each["persistentVolumeClaim"]["claimName"] for each in setup["Pod"]["spec"]["volumes"][:1]]
    assert setup["PersistentVolumeClaim"]["metadata"]["name"] == claim == f"fedgtv-{kind}"
    told = (DEPLOY.parent / "docs" / "containers.md").read_text()
    pod = f"fedgtv-{kind}-setup"
    steps = [
        f"kubectl apply -f {kind}-setup.yaml",
        f"kubectl wait --for=condition=Ready pod/{pod}",
        f"kubectl exec {pod} -- fedgtv-{kind} init",
        f"kubectl delete pod {pod}",
        f"kubectl apply -f {kind}.yaml",
    ]
    places = [told.index(step, told.index("## Kubernetes")) for step in steps]
    assert places == sorted(places)


def test_a_proxy_is_named_in_one_line():
    assert "HTTPS_PROXY" in SERVICES["site", "node"]["environment"]
    for name in ("site.yaml", "site-setup.yaml"):
        text = (DEPLOY / "kubernetes" / name).read_text()
        (line,) = [line for line in text.splitlines() if "HTTPS_PROXY" in line]
        told = list(yaml.safe_load_all(text.replace(line, line.replace("# ", "", 1))))
        (spec,) = [each["spec"] for each in told if each["kind"] in ("Pod", "StatefulSet")]
        pod = spec["template"]["spec"] if "template" in spec else spec
        assert "HTTPS_PROXY" in [each["name"] for each in pod["containers"][0]["env"]]


def started():
    """(program, arguments) of everything that a file starts or asks for its health."""
    for (kind, _), spec in SERVICES.items():
        yield f"fedgtv-{kind}", spec["command"]
        if "healthcheck" in spec:
            yield spec["healthcheck"]["test"][1], spec["healthcheck"]["test"][2:]
    for param in pods():
        _, container = param.values
        if "args" in container:
            yield container["image"], container["args"]
            command = container["readinessProbe"]["exec"]["command"]
            yield command[0], command[1:]
    for words in re.findall(r"^(?:HEALTHCHECK .*)?CMD \[(.*)\]$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        program, *rest = words.replace('"', "").split(", ")
        if program in COMMANDS:
            yield program, rest


def test_every_command_exists_with_its_options():
    found = list(started())
    assert len(found) == 3 + 1 + 2 * 3 + 2
    for program, (name, *options) in found:
        command = get_command(COMMANDS[program]).commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in options if word.startswith("--")} <= known
