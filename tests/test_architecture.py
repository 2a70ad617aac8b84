"""The house's rules that a machine can hold: imports, lengths of bodies, configurations that load, how fast help is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.experiment import load_experiment
from common.recipe import Recipe
from common.settings import load_yaml

ROOT = Path(__file__).parents[1]
ROOMS = ("server", "client", "common", "deploy")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMMANDS = ("client.cli", "server.cli", "deploy.simulate", "deploy.demo")
MAX_BODY_LINES = 60

IMPORT_FLOWER = {
    "common.bundle",
    "common.direct_calls",
    "common.objects",
    "common.wire",
    "client.app",
    "client.border",
    "client.node_gate",
    "client.node_messages",
    "client.node_process",
    "client.task_input",
    "client.task_objects",
    "client.node_queue",
    "client.transfers",
    "client.warm_start",
    "client.worker_process",
    "server.app",
    "server.acceptance",
    "server.rounds",
    "server.sites",
    "server.strategy",
    "server.waiting",
    "server.statistics",
    "server.training",
    "server.comparison",
    "server.evaluation",
    "server.pictures",
    "server.superlink_process",
    "server.fleet_objects",
    "server.object_shortcut",
    "server.object_store",
    "server.fleet_guard",
    "server.uploads",
    "deploy.in_process",
    "deploy.pooled",
}
"""The messages, the two apps, the rounds and those steps that touch messages, the site's border and its gate in
Flower's SuperNode with the queue before it, how parts of messages travel at a site and at the SuperLink, Flower's
SuperLink with our database settings, store and guard, the grid's shortcut to that store, how Flower packs a bundle, the
simulation's grid and its pools, and what starts the training code.

Node, SuperLink and control need not: they run Flower's own commands as processes.
"""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import; write it absolute"
            names.add(node.module or "")
    return names


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_sources_are_found() -> None:
    assert {module_name(path).split(".")[0] for path in SOURCES} == set(ROOMS)
    assert len(CONFIGS) >= 5


def test_the_import_contracts_hold() -> None:
    """In a process of its own: the linter would silence every logger of this one."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--config", "pyproject.toml", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_server_and_client_meet_in_deploy_alone() -> None:
    """As the contracts say, but read from the files: a contract that names a wrong room would hold for ever."""
    allowed = {
        "common": {"common"},
        "client": {"client", "common"},
        "server": {"server", "common"},
        "deploy": set(ROOMS),
    }
    for path in SOURCES:
        room = module_name(path).split(".")[0]
        entered = {name.split(".")[0] for name in imported(path)} & set(ROOMS)
        assert entered <= allowed[room], f"{path.relative_to(ROOT)} imports {sorted(entered - allowed[room])}"


def test_flower_is_imported_where_messages_are_and_nowhere_else() -> None:
    found = {module_name(path) for path in SOURCES if {"flwr"} & {name.split(".")[0] for name in imported(path)}}
    assert found == IMPORT_FLOWER


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_body_is_longer_than_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert body_lines(node) <= MAX_BODY_LINES, f"{node.name}: {body_lines(node)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_is_unpickled(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            assert call not in {"torch.load", "torch.save"}, f"line {node.lineno}: {call}"
            allows = [ast.unparse(word.value) for word in node.keywords if word.arg == "allow_pickle"]
            assert allows in ([], ["False"]), f"line {node.lineno}: {call} allows pickle"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads(path: Path) -> None:
    kind = path.relative_to(ROOT / "configs").parts[0]
    assert kind in {"recipes", "experiments"}, f"{path}: say here how it is loaded"
    assert load_yaml(path, Recipe) if kind == "recipes" else load_experiment(path)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_import_nothing_heavy(name: str) -> None:
    heavy = ("torch", "flwr", "SimpleITK", "numpy", "scipy", "cv2", "pydicom", "matplotlib", "pydantic")
    done = run_python(f"import sys, {name}; print([each for each in {heavy} if each in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_nothing_heavy(name: str) -> None:
    code = f"import sys; sys.argv = ['fedgtv', '--help']; import {name}; {name}.main()"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
