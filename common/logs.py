"""Where the product's own lines go inside a Flower process: to its output, and nothing else's with them."""

import logging
import sys
from typing import TextIO

LOGGER = "fedgtv"


class _Output(logging.StreamHandler[TextIO]):
    """Writes to whatever standard output is at the moment."""

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def log_to_output() -> None:
    """Sends the product's log lines to standard output, once.

    The root logger is left alone: Flower ships a ServerApp's output to the SuperLink by HTTP, and with the HTTP
    library's own lines in it, every shipment would make another.
    """
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = _Output()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        logger.addHandler(handler)
