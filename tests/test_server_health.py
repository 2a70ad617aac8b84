"""What `fedgtv-coordinator health` says, with a small TLS server in a daemon's place."""

import sys
from pathlib import Path

import server.cli
from common.processes import free_port
from server.federation import Federation
from server.health import Health, daemon_health

LISTEN = """\
import ssl, socket, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
door = context.wrap_socket(socket.create_server(("127.0.0.1", int(sys.argv[3]))), server_side=True)
print("ready", flush=True)
while True:
    try:
        door.accept()[0].close()
    except OSError:
        pass
"""


def test_no_superlink_is_named_and_its_port_asked_where_there_is_no_gateway(tmp_path: Path, command) -> None:
    port = free_port()
    federation = Federation.create(tmp_path / "federation", f"localhost:{port}")
    files, tree = federation.certificates, federation.superlink().tree
    ended = command(server.cli.main, "health", "--folder", tmp_path / "federation")
    assert (ended.code, ended.out) == (1, "superlink: not running; start it with `fedgtv-coordinator up`\n")
    try:
        tree.start([sys.executable, "-c", "import time; time.sleep(60)"], {})
        silent = Health(False, f"superlink: port {port} gives no answer with this federation's certificate")
        assert daemon_health(federation) == [Health(True, "superlink: running"), silent]
        tree.stop()
        tree.start([sys.executable, "-c", LISTEN, str(files.certificate), str(files.key), str(port)], {})
        while "ready" not in tree.tail():
            assert tree.running, tree.tail()
        assert daemon_health(federation)[1] == Health(True, f"superlink: port {port} answers")
        assert command(server.cli.main, "health", "--folder", tmp_path / "federation").code == 0
        files.authority.write_text("garbage")
        ended = command(server.cli.main, "health", "--folder", tmp_path / "federation")
        assert (ended.code, ended.err.partition(";")[0]) == (2, f"error: {files.authority}: no certificate in PEM")
    finally:
        tree.stop()
