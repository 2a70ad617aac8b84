"""What README and docs say is so: commands, options, files, configuration fields and defaults, YAML, ledger lines."""

import ast
import importlib
import re
import shlex
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import typer
import yaml
from configuration import models as all_models
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from client import audit, border, node_cli, node_gate
from common.errors import CODES, ApprovalError, PolicyError
from common.experiment import Experiment, SimulationConfig, load_experiment
from common.recipe import Recipe
from common.settings import Frozen, load_yaml
from common.site_config import SiteConfig
from common.steps import Step
from server.strategy import OPTIONS

ROOT = Path(__file__).parents[1]
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
ROOMS = ("client", "common", "configs", "deploy", "docs", "server", "tests")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
FILE_ENDINGS = (".md", ".yaml", ".json", ".jsonl", ".html", ".csv", ".png", ".safetensors", ".gz", ".dcm", ".crt",
                ".key", ".pub", ".log", ".py", ".svg", ".toml", ".head")  # fmt: skip


def blocks(kind):
    """(document, info string, text) of every fenced block of a language."""
    found = [(name, match[1].strip(), match[2]) for name, text in DOCS.items() for match in FENCE.finditer(text)]
    return [(name, info, text) for name, info, text in found if info.split()[:1] == [kind]]


def inline():
    """(document, code) of every inline code, in prose and tables."""
    return [
        (name, code.replace(r"\|", "|")) for name, text in DOCS.items() for code in CODE.findall(FENCE.sub("", text))
    ]


def shell_lines():
    return [
        (name, shlex.split(line, comments=True))
        for name, _, text in blocks("sh")
        for line in text.splitlines()
        if shlex.split(line, comments=True)
    ]


def our_commands():
    """(document, words) wherever one of our commands is named."""
    named = shell_lines() + [(name, shlex.split(code)) for name, code in inline() if code.startswith("fedgtv-")]
    return [(name, words) for name, words in named if Path(words[0]).name in SCRIPTS]


def tables(marker):
    """(document, argument, rows of cells) of every table that follows `<!-- marker: argument -->`."""
    pattern = re.compile(rf"<!-- {marker}(?:: (\w+))? -->\n((?:\|.*\n)+)")
    return [
        (name, match[1], [cells(line) for line in match[2].splitlines()[2:]])
        for name, text in DOCS.items()
        for match in pattern.finditer(text)
    ]


def cells(line):
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def codes(cell):
    return CODE.findall(cell)


def value_of(cell):
    text = codes(cell)[0]
    return float(Fraction(text)) if re.fullmatch(r"\d+/\d+", text) else yaml.safe_load(text)


def plain(value):
    """A default as YAML would hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return (
        [plain(item) for item in value]
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, Path)
        else value
    )


def command_of(script):
    """The click command behind an entry point."""
    module, _, _ = SCRIPTS[script].partition(":")
    loaded = importlib.import_module(module)
    app = getattr(loaded, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command()(loaded.simulate)
    return typer.main.get_command(app)


def help_text(script, subcommand, monkeypatch, capsys):
    """What `script subcommand --help` prints, through its entry point."""
    module, _, function = SCRIPTS[script].partition(":")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", [script, *subcommand, "--help"])
    with pytest.raises(SystemExit) as ended:
        getattr(importlib.import_module(module), function)()
    assert ended.value.code == 0
    return capsys.readouterr().out


def subcommand_of(words):
    return [word for word in words[1:2] if hasattr(command_of(Path(words[0]).name), "commands")]


@pytest.mark.parametrize(("name", "words"), our_commands())
def test_command_exists_with_its_options(name, words, monkeypatch, capsys):
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    script, subcommand = Path(words[0]).name, subcommand_of(words)
    text = help_text(script, subcommand, monkeypatch, capsys)
    for option in options:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{name}: {' '.join(words)}: no option {option}"


@pytest.mark.parametrize(("name", "words"), [each for each in shell_lines() if Path(each[1][0]).name in SCRIPTS])
def test_command_line_parses(name, words):
    command, rest = command_of(Path(words[0]).name), words[1:]
    if hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[0], rest)  # raises UsageError for what is missing or unknown; runs nothing


def test_options_named_alone_belong_to_some_command():
    known = {"--help"}
    for script in SCRIPTS:
        command = command_of(script)
        for each in getattr(command, "commands", {"": command}).values():
            known |= {option for parameter in each.params for option in parameter.opts}
    assert [each for each in inline() if each[1].startswith("--") and each[1].split()[0] not in known] == []


def test_every_command_is_in_the_readme():
    told = {tuple(shlex.split(code)[:2]) for name, code in inline() if name == "README.md" and "fedgtv-" in code}
    for script in SCRIPTS:
        for subcommand in getattr(command_of(script), "commands", {None: None}):
            assert (script, subcommand) in told or ((script,) in told and subcommand is None), f"{script} {subcommand}"


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = shell_lines() + [(name, shlex.split(code)) for name, code in inline() if re.match(r"make [a-z]", code)]
    named = {word for _, words in lines if words[0] == "make" for word in words[1:] if "=" not in word}
    assert {"demo", "test"} <= named
    assert named <= set(targets)


def test_readme_opens_with_the_two_commands():
    first = FENCE.search(DOCS["README.md"])
    assert [shlex.split(line, comments=True) for line in first[2].splitlines()] == [["make", "demo"], ["make", "test"]]


def test_files_exist():
    words = inline() + [(name, word) for name, words in shell_lines() for word in words]
    named = [(name, word) for name, word in words if word.startswith(tuple(f"{room}/" for room in ROOMS))]
    assert named
    assert [each for each in named if not (ROOT / each[1]).exists()] == []


def test_links_lead_somewhere():
    for name, text in DOCS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
            path, _, anchor = target.partition("#")
            if path.startswith("https:"):
                continue
            linked = (ROOT / name).parent / path if path else ROOT / name
            assert linked.exists(), f"{name}: {target}"
            assert not anchor or anchor in headings(linked.read_text()), f"{name}: {target}"


def headings(text):
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pictures_stand_alone():
    for path in ROOT.glob("docs/*.svg"):
        for element in ElementTree.parse(path).iter():
            assert not element.tag.endswith(("script", "image", "foreignObject"))
            assert not any(key.endswith("href") for key in element.attrib)


@pytest.mark.parametrize(("name", "info", "text"), blocks("yaml"))
def test_yaml_block_is_valid(name, info, text, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "configs" / "recipes")
    path = tmp_path / "experiments" / "block.yaml"
    path.parent.mkdir()
    path.write_text(text)
    kind = info.partition(" ")[2]
    assert kind in {"experiment", "recipe", "site"}, f"{name}: say which kind: ```yaml experiment, recipe or site"
    load_kind(kind, path)


def load_kind(kind, path):
    if kind == "experiment":
        return load_experiment(path)
    return load_yaml(path, {"recipe": Recipe, "site": SiteConfig}[kind])


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_shipped_configuration_is_valid(path):
    load_kind({"experiments": "experiment", "recipes": "recipe"}[path.parent.name], path)


@pytest.mark.parametrize(("name", "model", "rows"), tables("fields"))
def test_field_table_is_the_model(name, model, rows):
    fields = all_models()[model].model_fields
    assert {codes(row[0])[0] for row in rows} == set(fields)
    for row in rows:
        default = fields[codes(row[0])[0]].default
        if row[1] == "required":
            assert default is PydanticUndefined, f"{name}: {row}"
        elif not row[1]:
            assert isinstance(default, BaseModel), f"{name}: {row}"
        else:
            assert value_of(row[1]) == plain(default), f"{name}: {row}"


def test_every_step_has_its_table():
    step, _ = get_args(Step)
    expected = {kind.__name__ for kind in get_args(step)} - {"StatisticsStep"}  # it has no field but its kind
    assert expected <= {model for _, model, _ in tables("fields")}


def choices(config, prefix):
    """(dotted path, default) of every field that the code marks as our choice."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Frozen):
            yield from choices(value, f"{prefix}{name}.")
        elif "[C" in (field.description or ""):
            yield f"{prefix}{name}", plain(value)


def test_choice_table_is_complete_and_true():
    ((_, _, rows),) = tables("choices")
    split = Experiment.model_fields["split"].default
    ours = dict([*choices(Recipe(), ""), *choices(split, "split.")])
    told = {codes(row[1])[0]: value_of(row[2]) for row in rows}
    assert set(told) <= set(ours)
    for path, value in told.items():
        assert value == pytest.approx(ours[path]) if isinstance(value, float) else value == ours[path], path
    one_stage = {path.replace("stage2", "stage1") for path in told}
    assert {path.replace("stage2", "stage1") for path in ours} == one_stage
    assert all(len(row) == 4 and all(row) for row in rows)


def test_constants_have_the_values_told():
    ((_, _, rows),) = tables("constants")
    for row in rows:
        file, constant = codes(row[1])
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert getattr(module, constant) == value_of(row[2]), row


def resolves(parts, model):
    """Whether a dotted path leads to a field, starting at `model`."""
    field = model.model_fields.get(parts[0])
    if field is None:
        return False
    inner = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
    models = [each for each in inner if issubclass(each, BaseModel)]
    return len(parts) == 1 or any(resolves(parts[1:], each) for each in models)


def test_configuration_keys_named_in_prose_exist():
    every = all_models().values()
    for name, code in inline():
        key, colon, _ = code.partition(": ")
        dotted = "." in key and not key.endswith(FILE_ENDINGS)
        if re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", key) and (colon or dotted):
            models = [Recipe, Experiment, SiteConfig] if dotted else every
            assert any(resolves(key.split("."), model) for model in models), f"{name}: {code}"


def test_readme_tells_how_easy_the_demo_is():
    demo, usual = load_experiment(ROOT / "configs/experiments/demo.yaml").simulation, SimulationConfig()
    text = " ".join(DOCS["README.md"].split())
    told = re.search(r"\(`scale: ([\d.]+)`; the generator's default is ([\d.]+)\)", text)
    assert [float(value) for value in told.groups()] == [demo.scale, usual.scale]
    told = re.search(r"\(`contrast: ([\d.]+)`; the default is ([\d.]+)\)", text)
    assert [float(value) for value in told.groups()] == [demo.contrast, usual.contrast]
    assert demo.scale < usual.scale
    assert demo.contrast > usual.contrast


def test_strategy_table_is_what_the_server_takes():
    ((_, _, rows),) = tables("options")
    assert {codes(row[0])[0]: tuple(codes(row[1])) for row in rows} == OPTIONS


def test_ledger_table_is_what_the_server_writes():
    ((_, _, rows),) = tables("ledger")
    told = {codes(row[0])[0]: set(codes(row[2])) for row in rows}
    written = {}
    for path in ROOT.glob("server/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            keys = [getattr(key, "value", None) for key in node.keys] if isinstance(node, ast.Dict) else []
            if "kind" in keys:
                written[node.values[keys.index("kind")].value] = set(keys) - {"kind"}
    assert set(told) == set(written)
    for kind, keys in written.items():
        assert told[kind] == keys or (None in keys and told[kind] >= keys - {None}), kind  # `**` holds some more


def test_code_table_is_what_a_site_says_of_code_and_policy():
    ((_, _, rows),) = tables("codes")
    told = {codes(row[0])[0] for row in rows}
    assert told <= CODES
    assert told >= ApprovalError.codes | PolicyError.codes


def test_audit_table_is_what_a_site_writes():
    ((_, _, rows),) = tables("audit")
    named = {border.TASK, border.DECISION, border.OUTGOING, node_gate.CODE, audit.TORN, node_cli.APPROVAL}
    assert {codes(row[0])[0] for row in rows} == named


def test_readme_lists_the_rooms():
    rows = re.findall(r"^\| `(\w+)/` \|", DOCS["README.md"], re.MULTILINE)
    assert sorted(rows) == sorted(ROOMS)
