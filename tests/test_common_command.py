"""How commands end: exit code 0, 1, 2 or 130, and one line on stderr."""

import subprocess
import sys

import click
import pytest
import typer

from common.command import command_line
from common.errors import CheckpointError, ConfigError, FedgtvError, WorkError

LONG = "recipe.yaml: lr0: 3\n  must be\tless than 1"


def made(raised: BaseException | None = None, result: object = None) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def work(number: int = 1, debug: bool = False) -> object:
        if raised is not None:
            raise raised
        print(f"did {number}")
        return result

    return app


def end(app: typer.Typer, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        command_line(app, arguments)
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


def test_success_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(made(), capsys, "--number", "3") == (0, "did 3\n", "")
    assert end(made(result="text"), capsys)[0] == 0


@pytest.mark.parametrize("code", [0, 1, 2])
def test_an_exit_keeps_its_code(capsys: pytest.CaptureFixture[str], code: int) -> None:
    assert end(made(typer.Exit(code)), capsys) == (code, "", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [(FedgtvError(LONG), 1), (WorkError(LONG), 1), (ConfigError(LONG), 2), (CheckpointError(LONG), 2)],
)
def test_our_errors_are_one_line_and_have_their_own_code(
    capsys: pytest.CaptureFixture[str], error: FedgtvError, code: int
) -> None:
    assert end(made(error), capsys) == (code, "", "error: recipe.yaml: lr0: 3 must be less than 1\n")


def test_an_unexpected_error_is_one_line_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = end(made(ZeroDivisionError("division\nby zero")), capsys)
    assert (code, out) == (1, "")
    assert err == "error: ZeroDivisionError: division by zero (unexpected; --debug shows where)\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), typer.Abort(), EOFError()])
def test_an_interruption_is_130(capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    code, out, err = end(made(error), capsys)
    assert (code, out) == (130, "")
    assert err.strip() == "stopped; the same command goes on where it was"


@pytest.mark.parametrize("arguments", [("--unknown",), ("--number", "x"), ("superfluous",)])
def test_a_wrong_command_line_is_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = end(made(), capsys, *arguments)
    assert (code, out) == (2, "")
    assert arguments[-1] in err
    assert "Traceback" not in err


def test_help_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = end(made(), capsys, "--help")
    assert code == 0
    assert "--number" in out


@pytest.mark.parametrize("error", [ConfigError("given"), ZeroDivisionError("given")])
def test_debug_shows_the_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="given"):
        command_line(made(error), ["--debug"])


def test_the_arguments_are_the_process_s_own_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fedgtv-site", "--number", "5"])
    with pytest.raises(SystemExit) as caught:
        command_line(made())
    assert (caught.value.code, capsys.readouterr().out) == (0, "did 5\n")


PROGRAM = """
import os, signal, typer
from common import command

app = typer.Typer()

@app.command()
def work() -> None:
    {}

command.command_line(app)
"""
KILL = "os.kill(os.getpid(), signal.{})"


def ended(work: str, *launch: str) -> tuple[int, str, str]:
    command = ["env", "--default-signal", *launch, sys.executable, "-c", PROGRAM.format(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_polite_signal_stops_the_command(name: str) -> None:
    assert ended(KILL.format(name)) == (130, "", "stopped; the same command goes on where it was\n")


def test_a_command_that_hangs_hears_a_later_signal() -> None:
    """A first interruption can get lost, as in a finaliser."""
    lost = f"try: {KILL.format('SIGTERM')}\n    except KeyboardInterrupt: pass\n    "
    again = f"command.STOPPING_S = 0.0\n    {lost}{KILL.format('SIGINT')}"
    assert ended(again)[0] == 130
    assert ended(f"{lost}{KILL.format('SIGINT')}") == (0, "", "still stopping\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    assert ended(f"{KILL.format('SIGHUP')}; print('went on')", "nohup")[:2] == (0, "went on\n")
