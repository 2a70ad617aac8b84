"""The call before joining: each obstacle in a hospital's network is named, through a direct way and through a proxy."""

import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from client.contact import contact
from client.contact_check import check_contact
from client.kit_place import given_kit, place_kit
from common.errors import ConfigError, SiteError, WorkError
from common.kit import Kit, write_kit
from common.processes import free_port
from server import provision
from server.provision import make_certificates, renew_authority, renew_certificate


@pytest.fixture(autouse=True)
def no_proxy_of_ours(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("pki"), ["gtv.example.org"])


@contextmanager
def serving(handle):
    """Yields a loopback port whose every connection is given to `handle`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    handle(connection)
                except (OSError, ssl.SSLError):
                    continue  # the other end went away, as it should

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def https_server(files, ahead_s=0.0):
    """A handler that answers 404 with a Date that is `ahead_s` before now: as seen from a clock that is ahead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def handle(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(4096)
            date = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead_s), usegmt=True)
            secure.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())

    return handle


def kit_for(files, address):
    return Kit(site="A", coordinator=address, authority=files.authority.read_text())


def test_the_right_coordinator_is_reached_and_its_certificates_end_known(files):
    with serving(https_server(files)) as port:
        found = contact(kit_for(files, f"localhost:{port}"))
    assert (found.reached, found.warnings) == (True, ())
    assert abs(found.clock_s) < 5
    assert found.until - datetime.now(UTC) > timedelta(days=800)


@pytest.mark.parametrize("ahead_s", [600, 30, -600])
def test_a_clock_off_by_ten_minutes_is_named_as_the_cause(files, ahead_s):
    way = "ahead of" if ahead_s > 0 else "behind"
    with (
        serving(https_server(files, ahead_s)) as port,
        pytest.raises(SiteError, match=rf"clock is 0:\d\d:\d\d {way} the coordinator's .*set the clock by NTP"),
    ):
        contact(kit_for(files, f"localhost:{port}"))


def test_a_clock_that_is_nearly_off_is_told_of(files):
    with serving(https_server(files, -120)) as port:
        (warning,) = contact(kit_for(files, f"localhost:{port}")).warnings
    assert "0:02:00 behind" in warning or "0:01:59 behind" in warning


def test_a_certificate_that_ends_soon_is_told_of(tmp_path):
    files = make_certificates(tmp_path / "pki", ["localhost"], valid_days=5)
    with serving(https_server(files)) as port:
        (warning,) = contact(kit_for(files, f"localhost:{port}")).warnings
    assert warning.startswith("coordinator's certificate: 4 days left, until 20")


@pytest.mark.parametrize("days", [20, -0.01])
def test_a_kit_whose_authority_ends_is_told_to_be_replaced(tmp_path, monkeypatch, days):
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", days)
    old = make_certificates(tmp_path / "pki", ["localhost"]) if days > 0 else outlived(tmp_path, monkeypatch)
    with serving(https_server(old)) as port:
        kit = kit_for(old, f"localhost:{port}")
        if days > 0:
            (line, also) = contact(kit).warnings
            assert line.startswith("coordinator's certificate: 19 days left")
            assert also.startswith("kit's authority: 19 days left")
            assert also.endswith("ask the coordinator for a new kit")
        else:
            with pytest.raises(WorkError, match=r"the authority in this site's kit ended on 20.* for a new kit"):
                contact(kit)


def outlived(folder, monkeypatch):
    """Certificates whose authority has expired and whose server certificate has not."""
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", 30)
    files = make_certificates(folder / "pki", ["localhost"])
    monkeypatch.setattr(provision, "AUTHORITY_DAYS", -0.01)
    renew_authority(folder / "pki")
    return files


def test_a_proxy_that_opens_tls_is_named_for_it_and_nothing_is_sent(tmp_path, files):
    stranger, heard = make_certificates(tmp_path / "stranger", ["localhost"]), []
    serve = https_server(stranger)

    def listen(connection):
        try:
            serve(connection)
            heard.append("a request")
        except (OSError, ssl.SSLError) as error:
            heard.append(str(error))
            raise

    with serving(listen) as port, pytest.raises(WorkError) as told:
        contact(kit_for(files, f"localhost:{port}"))
    assert "a certificate of 'fedgtv coordinator', issued by 'fedgtv coordinator authority'" in str(told.value)
    assert f"ask IT to exempt localhost:{port} from TLS inspection" in str(told.value)
    assert "\n" not in str(told.value)
    assert "a request" not in heard


def test_an_expired_certificate_is_told_with_its_dates_and_this_clock(tmp_path):
    files = make_certificates(tmp_path / "pki", ["localhost"])
    renew_certificate(tmp_path / "pki", ["localhost"], valid_days=-0.01)
    with (
        serving(https_server(files)) as port,
        pytest.raises(WorkError, match=r"valid from 20.* to 20.*expired; this clock says 20.* renew`"),
    ):
        contact(kit_for(files, f"localhost:{port}"))


def test_a_certificate_for_another_name_is_told(tmp_path, files, monkeypatch):
    with serving(https_server(files)) as port, serving(connect_proxy(port, [])) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        with pytest.raises(WorkError, match="which is not for this name; ask the coordinator for the right address"):
            contact(kit_for(files, "other.example.org:443"))


def test_plain_text_at_the_other_end_is_told(files):
    with (
        serving(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")) as port,
        pytest.raises(WorkError, match="no TLS from the other end"),
    ):
        contact(kit_for(files, f"localhost:{port}"))


def test_silence_is_a_warning_for_the_node_goes_on_trying(files):
    address = f"localhost:{free_port()}"
    found = contact(kit_for(files, address))
    assert not found.reached
    assert found.warnings[0].startswith(f"no answer from {address} (")


def connect_proxy(port, asked):
    """A handler that answers CONNECT, whatever the address, with a way to a loopback port."""

    def handle(connection):
        asked.append(connection.recv(4096).split()[1].decode())
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as onwards:
            thread = threading.Thread(target=pump, args=(onwards, connection))
            thread.start()
            pump(connection, onwards)
            thread.join()

    return handle


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_a_proxy_is_asked_for_the_address_of_the_kit(files, monkeypatch):
    asked = []
    with serving(https_server(files)) as port, serving(connect_proxy(port, asked)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy}")
        found = contact(kit_for(files, "gtv.example.org:8443"))
    assert (found.reached, asked) == (True, ["gtv.example.org:8443"])


def test_a_proxy_that_inspects_tls_fails_closed(files, tmp_path, monkeypatch):
    stranger = make_certificates(tmp_path / "stranger", ["gtv.example.org"])
    with serving(https_server(stranger)) as port, serving(connect_proxy(port, [])) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        with pytest.raises(WorkError, match=r"exempt gtv\.example\.org:8443 from TLS inspection"):
            contact(kit_for(files, "gtv.example.org:8443"))


def test_a_proxy_that_refuses_is_named_without_its_password(files, monkeypatch):
    with serving(lambda connection: connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy}")
        (warning,) = contact(kit_for(files, "gtv.example.org:8443")).warnings
    assert f"through the proxy 127.0.0.1:{proxy} (403 Forbidden)" in warning
    assert "secret" not in warning


def test_a_proxy_without_its_scheme_is_named_too(files, monkeypatch):
    with serving(lambda connection: connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy}")
        (warning,) = contact(kit_for(files, "gtv.example.org:8443")).warnings
    assert f"through the proxy 127.0.0.1:{proxy} (403 Forbidden); are HTTPS_PROXY and the address right" in warning


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_socks_proxy_is_told_and_not_tried(files, monkeypatch, variable):
    monkeypatch.setenv(variable, "socks5://user:secret@proxy:1080")
    with pytest.raises(ConfigError, match="names a socks5 proxy; expected an HTTP proxy") as caught:
        contact(kit_for(files, "gtv.example.org:8443"))
    assert "secret" not in str(caught.value)


def test_loopback_is_called_past_a_proxy_as_the_node_calls_it(files, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with serving(https_server(files)) as port:
        assert contact(kit_for(files, f"localhost:{port}")).reached


def test_check_tells_the_same_as_findings(files, tmp_path):
    config = tmp_path / "site.yaml"
    config.write_text("site: A")
    assert check_contact(config) == []
    with serving(https_server(files)) as port:
        place_kit(kit_for(files, f"localhost:{port}"), config)
        (good,) = check_contact(config)
    assert good.severity == "ok"
    assert f"localhost:{port} answers, clocks" in good.what
    with serving(https_server(files, 600)) as port:
        write_kit(kit_for(files, f"localhost:{port}"), tmp_path / "kit.json")
        (wrong,) = check_contact(config)
    assert (wrong.severity, wrong.remedy) == (
        "error",
        "set the clock by NTP (timedatectl set-ntp true), then join again",
    )
    write_kit(kit_for(files, f"localhost:{free_port()}"), tmp_path / "kit.json")
    assert [finding.severity for finding in check_contact(config)] == ["warning"]


def test_a_kit_of_another_site_is_not_taken(files, tmp_path):
    (tmp_path / "site.yaml").write_text("site: B")
    write_kit(kit_for(files, "localhost:1"), tmp_path / "A.kit.json")
    with pytest.raises(SiteError, match="is site 'A''s kit"):
        given_kit(tmp_path / "A.kit.json", tmp_path / "site.yaml")
