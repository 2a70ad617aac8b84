"""What `up` starts, in which order, and what it says of certificates; the daemons are stand-ins."""

import pytest

from common.errors import InputError, WorkError
from server.coordinator import Coordinator
from server.federation import Federation
from server.provision import renew_certificate


class Daemons:
    """Puts down what happens to SuperLink and gateway; the loop ends after `polls` turns."""

    def __init__(self, monkeypatch, polls=2):
        self.told, self.polls = [], polls
        for name, where in (("superlink", "server.superlink.Superlink"), ("gateway", "server.gateway.Gateway")):
            for method in ("start", "stop", "keep_up"):
                monkeypatch.setattr(f"{where}.{method}", self.note(f"{name} {method}"))

    def note(self, line):
        return lambda daemon: self.told.append(line)

    def is_set(self):
        return self.polls <= 0

    def wait(self, _):
        self.polls -= 1
        return self.polls < 0


def run(federation, daemons, gateway=None):
    lines = []
    Coordinator(federation, gateway, lines.append).run(daemons)
    return lines


def test_sites_elsewhere_call_a_gateway_that_is_up_last_and_down_first(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/sbin/nginx")
    daemons = Daemons(monkeypatch)
    (line,) = run(Federation.create(tmp_path / "fed", "gtv.example.org:8443"), daemons)
    assert line == "up: sites call gtv.example.org:8443 (the gateway); Ctrl-C stops it, all is kept"
    kept = 2 * ["superlink keep_up", "gateway keep_up"]
    assert daemons.told == ["superlink start", "gateway start", *kept, "gateway stop", "superlink stop"]


def test_a_federation_on_this_machine_alone_needs_no_gateway(tmp_path, monkeypatch):
    daemons = Daemons(monkeypatch, polls=1)
    federation = Federation.create(tmp_path / "fed", "localhost:8443")
    (line,) = run(federation, daemons)
    assert line.startswith("up on 127.0.0.1:8443 without a gateway, for this machine alone")
    assert daemons.told == ["superlink start", "superlink keep_up", "superlink stop"]


def test_runs_that_nobody_watches_are_looked_after_while_it_is_up(tmp_path, monkeypatch):
    daemons = Daemons(monkeypatch, polls=1)
    for method in ("look", "close"):
        monkeypatch.setattr(f"server.takeover.Takeover.{method}", daemons.note(f"runs {method}"))
    run(Federation.create(tmp_path / "fed", "localhost:8443"), daemons)
    assert daemons.told == ["superlink start", "superlink keep_up", "runs look", "runs close", "superlink stop"]


@pytest.mark.parametrize("gateway", [None, True])
def test_without_nginx_nothing_is_started(tmp_path, monkeypatch, gateway):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    daemons = Daemons(monkeypatch)
    with pytest.raises(WorkError, match="nginx: not found"):
        run(Federation.create(tmp_path / "fed", "gtv.example.org:8443"), daemons, gateway)
    assert daemons.told == []
    (line,) = run(Federation.open(tmp_path / "fed"), daemons, False)
    assert line.startswith("up on 127.0.0.1:8443 without a gateway")


def test_each_stage_of_a_certificates_end_is_told_once(tmp_path, monkeypatch):
    federation, daemons = Federation.create(tmp_path / "fed", "localhost:8443"), Daemons(monkeypatch, polls=4)
    days = iter([20, 20, 5, 0.5])

    def wait(_):
        left = next(days, None)
        if left is not None:
            renew_certificate(tmp_path / "fed" / "pki", ["localhost"], left)
        return left is None

    monkeypatch.setattr(daemons, "wait", wait)
    lines = run(federation, daemons)
    told = [line.partition("certificate: ")[2].partition(" left")[0] for line in lines[1:]]
    assert told == ["19 days", "4 days", "less than a day"]


def test_a_certificate_that_is_damaged_while_all_runs_is_told_once_and_ends_nothing(tmp_path, monkeypatch):
    federation, daemons = Federation.create(tmp_path / "fed", "localhost:8443"), Daemons(monkeypatch, polls=4)
    turns = iter([b"", b"garbage", b"garbage"])

    def wait(_):
        content = next(turns, None)
        if content:
            federation.certificates.authority.write_bytes(content)
        return content is None

    monkeypatch.setattr(daemons, "wait", wait)
    lines = run(federation, daemons)
    (line,) = lines[1:]
    assert line.startswith(
        f"warning: {federation.certificates.authority}: no certificate in PEM; restore it from a back"
    )
    assert daemons.told.count("superlink keep_up") == 3


@pytest.mark.parametrize("gateway", [False, True])
def test_a_certificate_for_other_names_starts_nothing(tmp_path, monkeypatch, gateway):
    daemons, path = Daemons(monkeypatch), tmp_path / "fed" / "federation.yaml"
    Federation.create(tmp_path / "fed", "gtv.example.org:8443")
    path.write_text("address: moved.example.org:8443\n")
    with pytest.raises(InputError, match=r"not for moved\.example\.org; .* run `fedgtv-coordinator renew`"):
        run(Federation.open(tmp_path / "fed"), daemons, gateway)
    assert daemons.told == []


def test_a_fixed_port_is_kept_behind_the_gateway(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/sbin/nginx")
    path = tmp_path / "fed" / "federation.yaml"
    Federation.create(tmp_path / "fed", "gtv.example.org:8443", ["192.0.2.7"])
    path.write_text(path.read_text().replace("superlink_port: 0", "superlink_port: 9443"))
    federation = Federation.open(tmp_path / "fed")
    assert federation.config.all_names == ("gtv.example.org", "192.0.2.7")
    superlink = federation.superlink()
    gateway = federation.gateway(superlink)
    assert (gateway.port, gateway.superlink) == (8443, superlink.upstream)
    assert superlink.upstream.address == superlink.address == "127.0.0.1:9443"
