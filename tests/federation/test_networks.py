"""Networks as hospitals have them: proxies, lost networks, namespaces of their own; and a site that is revoked."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from client.audit import AuditLog
from client.keys import make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.experiment import Experiment, RoundConfig
from common.kit import Kit, write_kit
from common.processes import free_port
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from server.gateway import Gateway
from server.launch import launch
from server.ledger import Ledger
from server.provision import make_certificates
from server.superlink import Superlink

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(600)]
OUTAGE_S = float(os.environ.get("FEDGTV_OUTAGE_S", "20"))
"""How long the network is away; 180 shows minutes."""


@pytest.fixture
def site_config(tmp_path, tiny_cases):
    """A function that makes a site of ten cases and returns its site.yaml."""

    def make(site):
        path = tmp_path / f"hospital-{site}" / "site.yaml"
        path.parent.mkdir()
        record = {"site": site, "cases": str(tiny_cases), "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1}}
        path.write_text(json.dumps(record))
        return path

    return make


def experiment(recipe, sites, rounds=1, quorum=0, timeout_s=600.0, epochs=1):
    return Experiment(
        reuse=False,
        name="net",
        sites=tuple(sites),
        recipe=recipe,
        split=SplitConfig(test_fraction=0.3, validation_fraction=0.2),
        rounds=RoundConfig(quorum=quorum, timeout_s=timeout_s),
        steps=(
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model="federated", rounds=rounds, local_epochs=epochs),
        ),
    )


@contextmanager
def proxy(target_port):
    """A CONNECT proxy that leads every name to a loopback port, with a switch that takes the network away.

    Yields (its port, a function that cuts all connections, one that mends the network, the addresses asked for).
    """
    listener = socket.create_server(("127.0.0.1", 0))
    up, asked, open_ends = threading.Event(), [], set()
    up.set()

    def serve(connection):
        request = connection.recv(4096)
        if not up.is_set() or not request:
            connection.close()
            return
        asked.append(request.split()[1].decode())
        onwards = socket.create_connection(("127.0.0.1", target_port))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ends = (connection, onwards)
        open_ends.update(ends)
        back = threading.Thread(target=pump, args=(onwards, connection))
        back.start()
        pump(connection, onwards)
        back.join()
        for end in ends:
            end.close()
        open_ends.difference_update(ends)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,)).start()

    thread = threading.Thread(target=accept)
    thread.start()

    def cut():
        up.clear()
        for end in list(open_ends):
            hang_up(end)

    try:
        yield listener.getsockname()[1], cut, up.set, asked
    finally:
        cut()
        hang_up(listener)
        listener.close()
        thread.join()


def hang_up(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # gone already


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass  # cut
    hang_up(source)
    hang_up(target)


def wait_for(condition, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_site_behind_a_proxy_trains_and_outlasts_a_lost_network(tmp_path, site_config, tiny_recipe, nginx):
    """Only the proxy knows where `gtv.example.org` is: what arrives has gone through it."""
    certificates = make_certificates(tmp_path / "pki", ["gtv.example.org"])
    superlink = Superlink(tmp_path / "coordinator", certificates, free_port(), {"OMP_NUM_THREADS": "1"})
    key = make_key("A", tmp_path / "keys")
    with ExitStack() as stack:
        stack.enter_context(superlink)
        door = Gateway(tmp_path / "gateway", certificates, ["localhost"], free_port(), superlink.upstream)
        stack.enter_context(door)
        node_id = superlink.enrol(read_join_request(key.request)).node_id
        port, cut, mend, asked = stack.enter_context(proxy(door.port))
        environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "OMP_NUM_THREADS": "1"}
        node = SiteNode(
            "A",
            tmp_path / "node",
            "gtv.example.org:8443",
            certificates.authority,
            key.private,
            site_config("A"),
            environment=environment,
        )
        stack.enter_context(node)
        assert node.wait_online(90.0) == node_id
        assert set(asked) == {"gtv.example.org:8443"}
        cut()
        lost = time.monotonic()
        wait_for(lambda: time.monotonic() > lost + OUTAGE_S, OUTAGE_S + 10)
        mend()
        mended, told = time.monotonic(), []
        wait_for(lambda: superlink.control.nodes()[node_id] == "online")
        print(f"network away for {OUTAGE_S:.0f} s: the node is back after {time.monotonic() - mended:.0f} s")
        launch(superlink.control, superlink.folder, experiment(tiny_recipe, "A"), "behind", told.append)
        assert told[-1]["kind"] == "end"
        assert node.num_starts == 1


def test_a_site_revoked_in_the_middle_of_a_round_is_out_at_once_and_the_others_go_on(
    tmp_path, site_config, tiny_recipe, nginx, start_federation
):
    configs = {site: site_config(site) for site in "ABC"}
    federation = start_federation(configs, gateway=True)
    superlink, node, lines = federation.superlink, federation.nodes["B"], []
    node.report = lines.append
    plan = experiment(tiny_recipe, "ABC", rounds=2, quorum=2, timeout_s=90.0, epochs=32)
    told, times = [], {}

    def revoke_when_training():
        wait_for(lambda: any("round 1" in line for line in lines))
        times["revoked"] = time.monotonic()
        superlink.revoke("B")
        times["said"] = time.monotonic()
        wait_for(lambda: any("no longer accepts site B's key" in line for line in lines))
        times["out"] = time.monotonic()

    thread = threading.Thread(target=revoke_when_training)
    thread.start()
    folder = launch(superlink.control, superlink.folder, plan, "revoked", told.append)
    thread.join()
    rounds = Ledger(folder, plan).find("round")
    print(json.dumps([{key: r.get(key) for key in ("round", "dropped", "seconds")} for r in rounds]))
    print({key: round(times[key] - times["revoked"], 1) for key in ("said", "out")})
    assert [list(record["dropped"]) for record in rounds] == [["B"], ["B"]]
    assert told[-1]["kind"] == "end"
    assert node.tree.members() == []
    assert [federation.nodes[site].num_starts for site in "AC"] == [1, 1]


def namespaces_work():
    probe = f"fedgtv-{os.getpid()}-probe"
    try:
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
        return made and subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def hospital_networks():
    """{site: its namespace}, each with its own address and a way to 10.213.N.1 alone, where the gateway listens."""
    if not namespaces_work():
        pytest.skip("network namespaces need root and the command ip (iproute2)")
    names = {}
    try:
        for number, site in enumerate("ABC", 1):
            name, inside, outside = f"fedgtv-{os.getpid()}-{site}", f"fgi{os.getpid() % 10000}{site}", ""
            outside = inside.replace("fgi", "fgo")
            names[site] = name
            for line in (
                f"ip netns add {name}",
                f"ip link add {outside} type veth peer name {inside} netns {name}",
                f"ip addr add 10.213.{number}.1/30 dev {outside}",
                f"ip link set {outside} up",
                f"ip -n {name} addr add 10.213.{number}.2/30 dev {inside}",
                f"ip -n {name} link set {inside} up",
                f"ip -n {name} link set lo up",
            ):
                subprocess.run(line.split(), check=True)
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_three_sites_in_networks_of_their_own_finish_a_federation(
    tmp_path, site_config, tiny_recipe, nginx, hospital_networks
):
    addresses = [f"10.213.{number}.1" for number in (1, 2, 3)]
    certificates = make_certificates(tmp_path / "pki", addresses)
    superlink = Superlink(tmp_path / "coordinator", certificates, free_port(), {"OMP_NUM_THREADS": "1"})
    told = []
    with ExitStack() as stack:
        stack.enter_context(superlink)
        door = Gateway(tmp_path / "gateway", certificates, addresses, free_port(), superlink.upstream)
        stack.enter_context(door)
        configs = {site: site_config(site) for site in hospital_networks}
        for (site, namespace), address in zip(hospital_networks.items(), addresses, strict=True):
            home = configs[site].parent
            superlink.enrol(read_join_request(make_key(site, home / "keys").request))
            kit = Kit(site=site, coordinator=f"{address}:{door.port}", authority=certificates.authority.read_text())
            write_kit(kit, home / "kit.json")
            stack.enter_context(joined(namespace, configs[site]))
            assert reaches(namespace, address, door.port)
            assert not reaches(namespace, address, superlink.port)
            assert not reaches(namespace, "127.0.0.1", superlink.port)
        assert not reaches(hospital_networks["A"], "10.213.2.2", 9165)
        launch(superlink.control, superlink.folder, experiment(tiny_recipe, "ABC", 2), "apart", told.append)
    assert told[-1]["kind"] == "end"
    assert [record["dropped"] for record in told if record["kind"] == "round"] == [{}, {}]
    for config in configs.values():  # all of it went through each site's gate
        audit = AuditLog(config.parent / "state").read()
        events = [(each["event"], each.get("decision")) for each in audit.records]
        assert audit.faults == ()
        assert events.count(("code", "accepted")) == 1
        assert events.count(("decision", "admitted")) == events.count(("outgoing", None)) == 3


@contextmanager
def joined(namespace, config):
    """`fedgtv-site join` in a network namespace, once it is online."""
    command = [str(Path(sys.executable).with_name("fedgtv-site")), "join", "--config", str(config)]
    with subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            assert any("node online as" in line for line in process.stdout)
            yield
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 130


def reaches(namespace, address, port):
    program = f"import socket; socket.create_connection(({address!r}, {port}), timeout=2)"
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
