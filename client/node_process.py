"""Starts Flower's SuperNode with the site's gate in it: `python -m client.node_process` with Flower's arguments."""

import os
from pathlib import Path

from flwr.common.constant import APP_DIR
from flwr.supercore.utils import get_flwr_home
from flwr.supernode import start_client_internal

from client.approval import own_hash
from client.node import CONFIG_VARIABLE
from client.node_gate import PULL, PUSH, Gate
from common.logs import log_to_output


def install(gate: Gate) -> None:
    """Puts the gate's steps in the place of Flower's."""
    vars(start_client_internal)[PULL] = gate.pull
    vars(start_client_internal)[PUSH] = gate.push


def main() -> None:
    """Flower's own command, with its own arguments."""
    from flwr.supernode.cli import flower_supernode

    log_to_output()
    config = Path(os.environ[CONFIG_VARIABLE])
    install(Gate(config, own_hash(), start_client_internal, get_flwr_home() / APP_DIR))
    flower_supernode()


if __name__ == "__main__":
    main()
