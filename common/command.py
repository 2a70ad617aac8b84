"""How every command ends: exit code 0, 1 (work failed) or 2 (bad input), and one line instead of a traceback."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click
import typer

from common.errors import FedgtvError
from common.text import clean_text

INTERRUPTED = 130
INTERNAL = 1


def command_line(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Runs `app` and exits; `--debug` anywhere on the line shows the traceback of an error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    for polite in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(polite, _interrupt)
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:  # Typer's own answer to Ctrl-C, without a word
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, click.Abort):
        _end("stopped; the same command goes on where it was", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        _end(f"error: {error.format_message().rstrip('.')}{hint}", error.exit_code)
    except FedgtvError as error:
        if debug:
            raise
        _end(f"error: {error}", error.exit_code)
    except Exception as error:
        if debug:
            raise
        _end(f"error: {type(error).__name__}: {error} (unexpected; --debug shows where)", INTERNAL)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """A polite kill ends like Ctrl-C: the processes that the command started are ended too."""
    raise KeyboardInterrupt


def _end(line: str, code: int) -> None:
    print(clean_text(" ".join(line.split()), None), file=sys.stderr)
    sys.exit(code)
