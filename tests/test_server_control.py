"""How Flower's own command is called, with a stand-in for it."""

import os
import sys
from pathlib import Path

import pytest

from server.control import Control


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_call_that_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to the whole process group."""
    flwr = tmp_path / "flwr"
    flwr.write_text(f"#!{sys.executable}\nimport os\nprint(os.getpgrp())\n")
    flwr.chmod(0o755)
    monkeypatch.setattr("server.control.flower_command", lambda _: str(flwr))
    (tmp_path / "config.toml").touch()
    assert int(Control(tmp_path).log(7)) != os.getpgrp()
