"""What our control, SuperLink, gateway, bundle, node and gate rely on in Flower 1.41, by name."""

import importlib
import inspect
import io
import json
import re
import warnings
import zipfile
from importlib import metadata
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array

from client import archive
from client.contact import AHEAD_S, BEHIND_S
from client.loaded_release import INSTALL, LOAD
from client.node import HEARTBEAT_S, LEASE_S, LEASED_S, SiteNode, _setting
from client.node_gate import INSERT, PULL, PUSH
from client.node_log import GRACEFUL, REFUSED, UNAUTHENTIC
from client.node_process import (
    CALL_S,
    INTERVAL,
    PIECE_BYTES,
    RETRY,
    TIME,
    UPLOAD_S,
    SlowUploads,
    SteadyHeartbeat,
    beat_every,
    give_uploads_time,
    tell_refusals,
)
from client.task_input import GIVE, TAKE
from client.task_objects import MAKE_APP
from client.worker import launcher_command
from client.worker_process import LOOK_EVERY, LOOK_EVERY_S
from common.bundle import RUN_KEY
from common.object_files import DIVIDER
from common.objects import CHUNKS, cut
from server import uploads
from server.control import Control, _run, toml_string
from server.fleet_guard import AHEAD, KEPT_S
from server.gateway import CALLS
from server.object_shortcut import INFLATE, MAKE_PULL, NESTED, PULL_MESSAGES
from server.provision import certificate_files
from server.superlink import Superlink
from server.superlink_process import AUTHENTICATE, LAYERS, LIFESPANS, STORE

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer's use of click, not ours
    from flwr.common.config import fuse_dicts, parse_config_args
    from flwr.common.constant import (
        FAB_INCLUDE_PATTERNS,
        FAB_MAX_SIZE,
        HEARTBEAT_DEFAULT_INTERVAL,
        HEARTBEAT_PATIENCE,
        SYSTEM_TIME_TOLERANCE,
        TIMESTAMP_TOLERANCE,
        Status,
        SubStatus,
    )
    from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
    from flwr.supercore import heartbeat, telemetry, update_check
    from flwr.supercore.auth import load_superexec_auth_secret
    from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER, OBJECT_PUSH_SESSION_TTL_SECONDS
    from flwr.supercore.object_store import object_store_factory, sql_object_store
    from flwr.supercore.superexec.executor import subprocess_executor
    from flwr.supercore.utils import get_flwr_home

    flower_superlink = importlib.import_module("flwr.superlink.cli.flower_superlink")
    from flwr.superlink import extensions
    from flwr.superlink.grid import http_grid
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.runtime import run_clientapp

    flower_superexec = importlib.import_module("flwr.supercore.cli.flower_superexec")
    flower_supernode = importlib.import_module("flwr.supernode.cli.flower_supernode")

pytestmark = pytest.mark.filterwarnings("ignore:'click.utils.get_binary_stream':DeprecationWarning")
"""Typer's fault, not ours; Flower's command line is therefore imported inside the tests."""


def source(name):
    module = importlib.import_module(name) if isinstance(name, str) else name
    return inspect.getsource(module)


def test_version_is_the_one_that_was_measured():
    assert metadata.version("flwr") == "1.41.0"


def test_superlink_takes_our_command_line(tmp_path):
    command = Superlink(tmp_path, certificate_files(tmp_path), 8443)._command()
    assert command[1:3] == ["-m", "server.superlink_process"]
    told = flower_superlink._parse_args_run_superlink().parse_args(command[3:])
    assert (told.host, told.port, told.isolation) == ("127.0.0.1", 8443, "process")
    assert told.superexec_auth_secret_file == str(tmp_path / "superexec.secret")
    assert told.enable_supernode_auth
    assert not told.insecure
    assert not told.runtime_dependency_install
    assert told.database == str(tmp_path / "state.db")


def test_the_launcher_takes_our_command_line_and_proves_itself_with_the_same_secret(tmp_path):
    superlink = Superlink(tmp_path, certificate_files(tmp_path), 8443)
    told = (
        importlib.import_module("flwr.supercore.cli.flower_superexec")
        ._parse_args()
        .parse_args(superlink._launcher_command()[1:])
    )
    assert (told.runtime_api_address, told.insecure) == ("127.0.0.1:8443", False)
    assert told.superexec_auth_secret_file == str(superlink.secret)
    assert not told.runtime_dependency_install


def test_flower_checks_a_nodes_call_where_our_guard_is_put():
    node_auth = importlib.import_module("flwr.superlink.routers.fleet.node_auth")
    assert list(inspect.signature(vars(node_auth)[AUTHENTICATE]).parameters) == ["request"]
    assert "run_in_threadpool(authenticate_node, request)" in source(node_auth)
    assert (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE) == (5, 300)
    assert AHEAD.total_seconds() == SYSTEM_TIME_TOLERANCE
    assert 2 * (TIMESTAMP_TOLERANCE + 2 * SYSTEM_TIME_TOLERANCE) == KEPT_S
    assert (AHEAD_S, BEHIND_S) == (SYSTEM_TIME_TOLERANCE - 1, TIMESTAMP_TOLERANCE)
    retry = source("flwr.supercore.retry.http_retry")
    assert "httpx.codes.SERVICE_UNAVAILABLE" in retry.partition("_RETRYABLE_TRANSPORT_ERRORS")[0]


def test_a_node_makes_the_calls_that_the_gateway_lets_through_and_no_other():
    client = source("flwr.supernode.fleet_http_client")
    made = set(re.findall(r'path="/v1/fleet/([a-z-]+)"', client))
    assert made - {call.name for call in CALLS} == {"register-node", "unregister-node"}  # of nodes without a key
    assert {call.name for call in CALLS} < made
    assert "MAX_ARRAY_CHUNK_SIZE" in source("flwr.supercore.constant") + source("flwr.common.constant")


def test_supernode_takes_our_command_line_and_settings_survive_its_parser(tmp_path):
    config = tmp_path / "a folder" / "site=A.yaml"
    node = SiteNode("A", tmp_path, "localhost:8443", tmp_path / "ca.crt", tmp_path / "site.key", config, port=9165)
    link = node._own_link()
    command = node._command(link)
    assert command[1:4] == ["-P", "-m", "client.node_process"]
    told = flower_supernode._parse_args_run_supernode().parse_args(command[4:])
    assert (told.superlink, told.host, told.port) == ("localhost:8443", "127.0.0.1", 9165)
    assert (told.insecure, told.runtime_dependency_install, told.isolation) == (False, False, "process")
    assert load_superexec_auth_secret(secret_file=told.superexec_auth_secret_file) == link.secret.read_bytes()
    assert parse_config_args([told.node_config]) == {"site": "A", "config": str(config)}


def test_superexec_takes_our_command_line(tmp_path):
    command = launcher_command("node:9094", tmp_path / "node.secret")
    assert command[1:4] == ["-P", "-m", "client.worker_process"]
    told = flower_superexec._parse_args().parse_args([*command[4:], "--parent-pid", "7"])
    assert (told.runtime_api_address, told.insecure, told.parent_pid) == ("node:9094", True, 7)
    assert told.superexec_auth_secret_file == str(tmp_path / "node.secret")
    assert (told.runtime_dependency_install, told.executor) == (False, "subprocess")


@pytest.mark.parametrize(
    "text", ["", 'it\'s "q" \\ = 5', "Müller \N{GRINNING FACE}", "a\nb\tc\x7f\0", '{"a": [1, "="]}']
)
def test_any_text_survives_a_run_configuration_file(tmp_path, text):
    path = tmp_path / "run-config.toml"
    path.write_text(f"task = {toml_string(text)}\n", encoding="ascii")
    assert parse_config_args([str(path)]) == {"task": text}


def test_a_json_text_on_the_command_line_is_cut_at_an_apostrophe_without_a_word():
    good = json.dumps({"a": "b c", "d": 1})
    assert parse_config_args([f"task='{good}'"]) == {"task": good}
    cut = json.dumps({"a": "it's"})
    assert parse_config_args([f"task='{cut}'"]) == {"task": '{"a": "it'}


def test_a_run_key_must_stand_in_the_bundle():
    assert fuse_dicts({RUN_KEY: ""}, {RUN_KEY: "x"}) == {RUN_KEY: "x"}
    with pytest.raises(ValueError, match=f"'{RUN_KEY}' is not present"):
        fuse_dicts({}, {RUN_KEY: "x"})


def test_a_setting_that_the_parser_would_break_is_refused():
    for value in ('a"b', "a'b", "a\\b", "a\nb"):
        with pytest.raises(ValueError, match="choose another"):
            _setting(value)


def test_connection_file_is_read_from_flwr_home(tmp_path, monkeypatch):
    control = Control(tmp_path / "home")
    control.configure("127.0.0.1:8443", tmp_path / "ca.crt")
    (tmp_path / "ca.crt").touch()
    monkeypatch.setenv("FLWR_HOME", str(control.home))
    assert get_flwr_home() == control.home
    connection = importlib.import_module("flwr.cli.flower_config").read_superlink_connection(None)
    assert (connection.address, connection.insecure) == ("127.0.0.1:8443", False)
    assert connection.root_certificates == str(tmp_path / "ca.crt")


def test_answers_hold_the_keys_that_control_reads():
    cli_ls, cli_nodes = (importlib.import_module(f"flwr.cli.{name}") for name in ("ls", "supernode.ls"))
    row = importlib.import_module("flwr.cli.run_utils").RunRow
    values = dict.fromkeys(inspect.signature(row).parameters, 1)
    values |= {"status_text": "finished:completed", "fab_id": "x/y", "details": ""}
    (record,) = json.loads(cli_ls._to_json([row(**values)]))["runs"]
    assert _run(record).completed
    nodes = cli_nodes._to_json([(7, "", "online", "", "", "", "", 0.0)], verbose=False)
    assert [(node["node-id"], node["status"]) for node in json.loads(nodes)["nodes"]] == [("7", "online")]
    assert '"node-id": response.node_id' in source("flwr.cli.supernode.register")
    assert '"run-id": f"{res.run_id}"' in source("flwr.cli.run.run")
    assert '"error-message"' in source("flwr.supercore.logger")
    assert (Status.FINISHED, SubStatus.COMPLETED) == ("finished", "completed")


def test_a_node_says_its_id_and_a_refused_one_its_code():
    assert 'log(INFO, "SuperNode ID: %s", node_id)' in source(start_client_internal)
    assert "FLEET_NODE_ACTIVATION_FAILED = 2004" in source("flwr.supercore.error.base")
    assert 'f"[code: {flower_error.code}]' in source("flwr.supernode.fleet_http_connection")
    assert REFUSED == "[code: 2004]"


def test_a_node_signs_off_when_it_ends_politely_or_is_no_longer_accepted():
    assert f'exit_message="{GRACEFUL}."' in source(start_client_internal)
    connection = source("flwr.supernode.fleet_http_connection")
    refused = connection.index("exc.response.status_code == httpx.codes.UNAUTHORIZED")
    assert connection[refused:].splitlines()[1].strip() == "os.kill(os.getpid(), signal.SIGINT)"
    assert "client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))" in connection


def test_a_wrong_clock_is_refused_as_unauthorized():
    auth = source("flwr.superlink.routers.fleet.node_auth")
    assert "Timestamp outside the allowed window" in auth
    assert "status_code=status.HTTP_401_UNAUTHORIZED" in auth
    request = httpx.Request("POST", "https://localhost:8443/v1/fleet/activate-node")
    with pytest.raises(httpx.HTTPStatusError, match=f"^Client error '{UNAUTHENTIC}'"):
        httpx.Response(401, request=request).raise_for_status()


def test_the_lease_is_two_of_our_heartbeats_and_a_killed_node_is_back_within_seconds_of_its_end():
    assert HEARTBEAT_PATIENCE * HEARTBEAT_S == 40
    assert 40 < LEASE_S <= 45
    assert LEASED_S <= 5


def test_both_of_flowers_modules_beat_as_the_node_is_told(monkeypatch):
    modules = [fleet_http_connection, heartbeat]
    for module in modules:
        monkeypatch.setattr(module, INTERVAL, HEARTBEAT_DEFAULT_INTERVAL)
    monkeypatch.setattr(fleet_http_connection, "HeartbeatSender", heartbeat.HeartbeatSender)
    beat_every(HEARTBEAT_S)
    assert fleet_http_connection.HeartbeatSender is SteadyHeartbeat
    assert "heartbeat_sender = HeartbeatSender(send_node_heartbeat)" in source(fleet_http_connection)
    assert [getattr(module, INTERVAL) for module in modules] == [HEARTBEAT_S] * 2
    assert source(fleet_http_connection).count(f"heartbeat_interval={INTERVAL}") == 2
    assert f"next_interval: float = {INTERVAL} - HEARTBEAT_CALL_TIMEOUT" in source(heartbeat)


def test_a_node_goes_on_to_say_that_it_is_there_after_an_error_that_flower_does_not_expect():
    """A SuperLink whose database is busy answers 500: Flower's sender would end over it, and the node be lost."""
    beats = []

    def beat():
        beats.append(1)
        raise httpx.HTTPStatusError("500", request=httpx.Request("POST", "https://x"), response=httpx.Response(500))

    with pytest.raises(httpx.HTTPStatusError):
        heartbeat.HeartbeatSender(beat)._heartbeat()
    with pytest.raises(heartbeat.HeartbeatFailure):  # the one that is tried again
        SteadyHeartbeat(beat)._heartbeat()
    assert len(beats) == 2
    assert (
        "if exc.response.status_code in (502, 503, 504):\n                    return False\n                raise"
        in (source(fleet_http_connection))
    )


def test_children_inherit_environment_and_folder():
    launch = source(subprocess_executor)
    assert "env=" not in launch
    assert "cwd=" not in launch
    assert 'command = ["flower-superexec"]' in source(start_client_internal)
    assert "subprocess.Popen(command)" in source(start_client_internal)
    assert "subprocess.Popen(command, **get_popen_detach_kwargs())" in source(flower_superlink)


def test_nothing_is_looked_up_outside():
    assert "FLWR_TELEMETRY_ENABLED" in source(telemetry)
    assert "FLWR_DISABLE_UPDATE_CHECK" in source(update_check)


def test_a_bundle_may_not_hold_page_templates():
    assert "**/*.py" in FAB_INCLUDE_PATTERNS
    assert "/LICENSE" in FAB_INCLUDE_PATTERNS
    assert not [pattern for pattern in FAB_INCLUDE_PATTERNS if "html" in pattern]


def test_sqlite_pragmas_can_be_made_patient() -> None:
    from flwr.supercore import sql_mixin

    from server.superlink_process import patient_pragmas

    assert dict(sql_mixin.SQLITE_PRAGMAS)["busy_timeout"] == "5000"
    assert "SQLITE_PRAGMAS" in inspect.getsource(sql_mixin._set_sqlite_pragmas)
    assert dict(patient_pragmas(sql_mixin.SQLITE_PRAGMAS))["busy_timeout"] == "120000"


def test_the_superlink_s_store_is_made_by_the_name_that_we_replace_and_is_what_ours_builds_on() -> None:
    """server/object_store.py: its statements name Flower's columns, and every part is deleted by its own call."""
    assert "store = SqlObjectStore(self.database)\n" in source(object_store_factory)
    store = vars(object_store_factory)[STORE]
    assert store is sql_object_store.SqlObjectStore
    assert {"object_id", "content", "is_available"} <= set(store.get_metadata(None).tables["objects"].columns.keys())
    assert source(store.delete).count("self.delete(child_id)") == 1
    assert source(store.delete_objects_in_run).count("self.delete(object_id)") == 1
    for changing in (store.preregister, store.delete, store.delete_objects_in_run, store.clear):
        assert "with self._mutation_session() as session:" in source(changing)
    assert "self._lock_objectstore_mutation()\n                yield session" in source(store._mutation_session)
    assert (DIVIDER, " ") == (HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER)
    assert "actual_body_len != int(body_len)" in source("flwr.supercore.inflatable.inflatable_utils")


def test_our_layer_stands_before_flower_s_which_read_a_body_whole_before_they_know_who_calls() -> None:
    """common/direct_calls.py holds nothing that was not held before, and does what these layers do for its calls."""
    main = importlib.import_module("flwr.superlink.main")
    assert vars(extensions)[LAYERS]() == vars(extensions)[LIFESPANS]() == ()
    assert f"in extensions.{LIFESPANS}():" in source(main.create_app)
    layers = source(main._get_middleware)
    assert f"return [\n        *extensions.{LAYERS}()," in layers
    assert layers.index("ProtobufTranslationMiddleware") < layers.index("NodeAuthMiddleware")
    assert "await request.body(), request_type" in source("flwr.supercore.protobuf.translation")


def test_the_calls_that_carry_parts_need_nothing_else_of_flower_s_layers_and_routes() -> None:
    """server/fleet_objects.py and client/task_objects.py: the routes call these handlers, with these checks alone."""
    translation = source("flwr.supercore.protobuf.translation")
    assert "self._check_request_media_type(request)\n" in translation
    assert "self._parse_request(\n                await request.body(), request_type\n" in translation
    fleet = source("flwr.superlink.routers.fleet.router")
    assert "reject_incompatible=False" in fleet
    for way in ("push", "pull"):
        assert f"return fleet_handlers.{way}_object(request=request, state=state)\n" in fleet
        assert f"return handlers.{way}_object(request, state, task)\n" in source(
            "flwr.supercore.routers.runtime.router"
        )
    handlers = source("flwr.superlink.servicer.fleet.fleet_handlers")
    assert handlers.count("[Status.PENDING, Status.STARTING, Status.FINISHED],") >= 2
    assert "stored = state.store_object(\n            request.run_id," in handlers
    node = importlib.import_module("flwr.supernode.main")
    assert f"\ndef {MAKE_APP}(" in source(node)
    assert f"app={MAKE_APP}(\n" in source(flower_supernode)
    assert "_RUNTIME_HANDLERS: RuntimeHandlers[NodeState] = runtime_handlers" in source(node)


def test_the_grid_has_all_of_a_message_s_objects_before_it_tells_the_superlink() -> None:
    """server/object_shortcut.py writes them there, and reads a reply's by the function that is made for each."""
    push = inspect.getsource(http_grid.HttpGrid._try_push_messages)
    assert push.index(f"all_objects.update({NESTED}(msg))") < push.index("self._runtime_client.PushMessages(")
    assert "object_ids_to_push=set(res.objects_to_push)" in push
    pull = inspect.getsource(http_grid.HttpGrid.pull_messages)
    assert re.search(rf"pull_object_fn={MAKE_PULL}\(\s+pull_object_protobuf=", pull)
    assert [source(http_grid).count(f"{name}(") for name in (NESTED, MAKE_PULL, INFLATE)] == [1, 1, 1]
    assert source(http_grid).count(f"self._runtime_client.{PULL_MESSAGES}(") == 1
    assert 'message.metadata.__dict__["_message_id"] = msg_id' in pull
    taken = source("flwr.server.superlink.linkstate.sql_linkstate")
    assert (
        'if int64_to_uint64(msg_ins["dst_node_id"]) != res_metadata.src_node_id:\n                    return None'
        in taken
    )


def test_the_loop_takes_its_two_steps_from_its_own_module_and_names_what_it_gives_them() -> None:
    """client/node_gate.py stands in for both; a step that Flower renamed or called otherwise would run unguarded."""
    pull, push = (getattr(start_client_internal, name) for name in (PULL, PUSH))
    assert set(inspect.signature(pull).parameters) == {
        "state", "object_store", "node_config", "receive", "get_run", "get_fab", "pull_object",
        "confirm_message_received", "trusted_entities",
    }  # fmt: skip
    assert list(inspect.signature(push).parameters) == ["state", "object_store", "send", "push_object"]
    loop = inspect.getsource(start_client_internal.start_client_internal)
    for name, step in ((PULL, pull), (PUSH, push)):
        call = loop[loop.index(f"{name}(") :].split(")\n")[0]
        assert [word.split("=")[0].strip() for word in call.split("(", 1)[1].split(",") if "=" in word] == list(
            inspect.signature(step).parameters
        )
        assert source(start_client_internal).count(f"{name}(") == 2  # its definition and the loop's one call
    assert list(inspect.signature(getattr(start_client_internal, INSERT)).parameters) == ["msg", "state", "store"]


def test_the_loop_s_pauses_are_all_that_it_uses_its_clock_s_module_for() -> None:
    """client/node_pauses.py stands in for it."""
    text = source(start_client_internal)
    used = re.findall(rf"(?<!\w){TIME}\.(\w+)(\(.*?\))?", text)
    assert used == [("sleep", "(3)"), ("sleep", "(0.5)"), ("sleep", "(0.5)")]
    assert f"\nimport {TIME}\n" in text


def test_a_clientapp_s_process_takes_its_message_and_its_code_where_ours_stand_in() -> None:
    """client/task_input.py and client/loaded_release.py."""
    process = inspect.getsource(run_clientapp.run_clientapp)
    assert process.index(f"{INSTALL}(fab.content, skip_prompt=True)") < process.index(f"{LOAD}(\n")
    assert (
        "client_app: ClientApp = load_client_app_fn(\n            run.fab_id, run.fab_version, fab.hash_str" in process
    )
    take = inspect.getsource(run_clientapp.pull_task_input)
    assert f"message = {TAKE}(\n        object_tree,\n" in take
    assert list(inspect.signature(vars(run_clientapp)[TAKE]).parameters)[:3] == [
        "object_tree", "pull_object_fn", "confirm_object_received_fn"
    ]  # fmt: skip
    give = inspect.getsource(run_clientapp.push_message)
    assert f"        {GIVE}(\n            all_objects,\n" in give
    assert "object_ids_to_push=object_ids_to_push," in give
    given = inspect.signature(vars(run_clientapp)[GIVE]).parameters
    assert list(given)[:2] == ["objects", "push_object_fn"]
    assert "object_ids_to_push" in given


def test_an_array_keeps_its_chunks_where_ours_are_put_and_cuts_as_we_do() -> None:
    """common/objects.py."""
    array = Array(np.arange(3_000_000, dtype=np.float32))
    assert CHUNKS not in vars(array)
    cut_by_flower = [(name, chunk.deflate()) for name, chunk in array.slice_array()]
    assert vars(array)[CHUNKS] == array.slice_array()
    assert cut_by_flower == [(chunk.object_id, chunk.deflate()) for chunk in cut([memoryview(array.data)])]


def test_the_launcher_s_pause_is_a_setting() -> None:
    launcher = source("flwr.supercore.superexec.run_superexec")
    assert f'_TASK_POLL_INTERVAL_ENV = "{LOOK_EVERY}"' in launcher
    assert 0.01 <= float(LOOK_EVERY_S) <= 60.0


def test_replies_leave_through_send_and_push_object_alone() -> None:
    push = inspect.getsource(getattr(start_client_internal, PUSH))
    assert "ids_obj_to_send, session_id = send(message, object_tree, clientapp_runtime)" in push
    assert "yield_object_contents(object_tree, ids_obj_to_send)" in push
    connection = source("flwr.supernode.fleet_http_connection")
    assert connection.count("client.PushMessages") == connection.count("client.PushObject") == 1


def test_flower_would_send_an_exception_s_text() -> None:
    """Why the gate makes every reply anew."""
    client_app = source("flwr.supernode.runtime.run_clientapp")
    assert """reason = str(type(ex)) + ":<'" + str(ex) + "'>\"""" in client_app
    assert "Message(Error(code=e_code, reason=reason), reply_to=message)" in client_app


def test_code_is_fetched_with_the_first_message_of_a_run_alone() -> None:
    pull = inspect.getsource(getattr(start_client_internal, PULL))
    assert "if (run_info := state.get_run(run_id)) is None:" in pull
    assert pull.count("get_fab(run_info.fab_hash, run_id)") == 1
    assert "state.store_fab(fab)" in pull


def test_code_is_unpacked_below_the_home_and_used_again_unseen() -> None:
    """Why client/worker_process.py clears that folder before each task."""
    install = source("flwr.cli.install")
    assert "install_base_dir = install_dir.expanduser() if install_dir else get_flwr_home()" in install
    assert "install_base_dir\n        / APP_DIR\n" in install
    assert "if install_path.exists():\n        if skip_prompt:\n            return install_path" in install


def test_a_bundle_s_bytes_depend_on_no_compressor(own_bundle) -> None:
    """A file that is packed may be packed otherwise by another zlib, and the hash would differ between machines."""
    with zipfile.ZipFile(io.BytesIO(own_bundle)) as bundle:
        assert {entry.compress_type for entry in bundle.infolist()} == {zipfile.ZIP_STORED}


def test_a_bundle_s_limits_are_flower_s() -> None:
    assert archive.MAX_BUNDLE_BYTES == FAB_MAX_SIZE
    kinds = {pattern.removeprefix("**/*") for pattern in FAB_INCLUDE_PATTERNS if pattern.startswith("**/*.")}
    assert set(archive.SUFFIXES) == kinds


def test_the_optimisers_keep_what_our_strategies_save_and_give_back():
    """By these names, and set by nothing but `configure_train` and `aggregate_train`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flwr.serverapp import strategy
    momentum = strategy.FedAvgM(server_momentum=0.9)
    assert (momentum.momentum_vector, momentum.current_arrays, momentum.server_momentum) == (None, None, 0.9)
    for kind in (strategy.FedAdam, strategy.FedYogi):
        adaptive = kind()
        assert (adaptive.m_t, adaptive.v_t, adaptive.current_arrays) == (None, None, None)
    assert not any(hasattr(strategy.FedAvg(), name) for name in ("m_t", "v_t", "momentum_vector", "current_arrays"))
    for name in ("fedavgm", "fedopt", "fedadam", "fedyogi"):
        kept = set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", source(f"flwr.serverapp.strategy.{name}")))
        settings = {"eta", "eta_l", "tau", "beta_1", "beta_2", "server_learning_rate", "server_momentum", "server_opt"}
        assert kept - settings <= {"momentum_vector", "current_arrays", "m_t", "v_t"}, name


def test_a_refused_call_is_told_before_flower_ends_the_node(monkeypatch, capsys):
    """Flower 1.41 sends itself SIGINT over a 401, such as a clock's that is wrong, and ends with code 0."""
    monkeypatch.setattr(fleet_http_connection, RETRY, lambda: SimpleNamespace(should_giveup=lambda error: False))
    tell_refusals()
    request = httpx.Request("POST", "https://localhost/v1/fleet/activate-node")
    refused, busy = (httpx.HTTPStatusError(told, request=request, response=httpx.Response(code, request=request))
                     for code, told in ((401, f"Client error '{UNAUTHENTIC}'"), (503, "busy")))  # fmt: skip
    invoker = getattr(fleet_http_connection, RETRY)()
    assert not invoker.should_giveup(refused)
    assert not invoker.should_giveup(busy)
    assert capsys.readouterr().err == f"Client error '{UNAUTHENTIC}'\n"
    assert "os.kill(os.getpid(), signal.SIGINT)" in source("flwr.supercore.retry.http_retry")
    assert "self.should_giveup(_exception)" in source("flwr.supercore.retry.retry_invoker")
    assert source(fleet_http_connection).count(f"= {RETRY}()") == 1


def test_an_upload_has_time_for_a_slow_line_and_other_calls_have_flower_s(monkeypatch):
    """A part may take as long as the coordinator waits for the next one, almost."""
    given, written = {}, {}

    def answer(request):
        assert request.extensions["timeout"]["write"] == CALL_S
        given[request.url.path] = request.extensions["timeout"]["read"]
        written[request.url.path] = list(request.stream)
        return httpx.Response(200)

    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", fleet_http_connection.FleetHttpClient)
    give_uploads_time()
    assert "with FleetHttpClient.from_server_address(" in source(fleet_http_connection)
    client = fleet_http_connection.FleetHttpClient("https://localhost")
    assert type(client) is SlowUploads
    client._interceptors = []
    with httpx.Client(transport=httpx.MockTransport(answer), timeout=client._client.timeout) as answered:
        client._client = answered
        pushed = PushObjectRequest(object_content=bytes(2 * PIECE_BYTES))
        client.PushObject(pushed)
        client.PullObject(PullObjectRequest())
    assert given == {"/v1/fleet/push-object": UPLOAD_S, "/v1/fleet/pull-object": CALL_S}
    pieces = written["/v1/fleet/push-object"]  # Flower writes all at one go, and `CALL_S` would be for all of it
    assert b"".join(pieces) == pushed.SerializeToString(deterministic=True)
    assert [len(piece) for piece in pieces][:-1] == [PIECE_BYTES] * 2
    assert UPLOAD_S < OBJECT_PUSH_SESSION_TTL_SECONDS < uploads.KEPT_S
    stored = source("flwr.supercore.corestate.sql_corestate").partition("self.object_store.put(object_id")[2]
    assert "seconds=OBJECT_PUSH_SESSION_TTL_SECONDS" in stored.partition("pending_count")[0]  # anew with each part
