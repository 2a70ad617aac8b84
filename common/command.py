"""How every command ends: exit code 0, 1 (work failed) or 2 (bad input), and one line instead of a traceback."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

import click
import typer

from common.errors import FedgtvError
from common.text import clean_text

INTERRUPTED = 130
INTERNAL = 1
POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING_S = 120.0
"""A stop may take so long: each daemon is given 15 s to end by itself, and what it started 10 s more."""
STILL = b"still stopping\n"


def command_line(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Runs `app` and exits; `--debug` anywhere on the line shows the traceback of an error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    _listen()
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


def _listen() -> None:
    """Lets a polite kill end the command like Ctrl-C; SIGHUP stays ignored where nohup has it ignored.

    A script's `&` has SIGINT ignored, but who sends it to this process means it.
    """
    interruption = _Interruption()
    for polite in POLITE:
        if polite != signal.SIGHUP or signal.getsignal(polite) != signal.SIG_IGN:
            signal.signal(polite, interruption)


class _Interruption:
    """Raises at the first signal alone: a second one would break off the stop, and leave what was started running.

    One that comes after `STOPPING_S` is heard again, for a command that hangs.
    """

    def __init__(self) -> None:
        self._heard_until = 0.0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now < self._heard_until:
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, STILL)
            return
        self._heard_until = now + STOPPING_S
        raise KeyboardInterrupt


def _end(line: str, code: int) -> None:
    print(clean_text(" ".join(line.split()), None), file=sys.stderr)
    sys.exit(code)
