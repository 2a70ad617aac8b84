"""What `up` keeps running: the SuperLink, the gateway before it, and the runs that are to go on."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime

from common.errors import InputError
from common.processes import free_port
from common.validity import STAGES_DAYS, stage
from server.federation import Federation
from server.gateway import find_nginx, only_loopback
from server.provision import expiry
from server.served import check_served
from server.takeover import Takeover

DAMAGED = len(STAGES_DAYS) + 1
"""The stage of a certificate that cannot be read."""


@dataclass
class Coordinator:
    """A federation's daemons.

    Args:
        federation: whose.
        gateway: whether the sites call a gateway; None: unless all names of the federation are loopback, where no one
            else can call.
        report: hears what the coordinator should know.
    """

    federation: Federation
    gateway: bool | None = None
    report: Callable[[str], None] = print

    @property
    def has_gateway(self) -> bool:
        """Whether a gateway is started."""
        return not only_loopback(self.federation.config.all_names) if self.gateway is None else self.gateway

    def run(self, stop: threading.Event, poll_s: float = 1.0) -> None:
        """Keeps daemons and runs up until `stop` is set, and warns once at each stage of a certificate's end.

        Raises:
            InputError: the server certificate cannot be served.
            WorkError: nginx is not installed, a port is taken, or a daemon ends at once.
        """
        federation, with_gateway = self.federation, self.has_gateway
        check_served(federation.certificates, federation.config.all_names)
        if with_gateway:
            find_nginx()
        superlink = federation.superlink(federation.config.superlink_port or free_port() if with_gateway else 0)
        with ExitStack() as stack:
            stack.enter_context(superlink)
            gateway = stack.enter_context(federation.gateway(superlink)) if with_gateway else None
            self._tell_where(superlink.address)
            runs = stack.enter_context(closing(Takeover(superlink.control, superlink.folder, self.report)))
            warned = 0
            while True:
                warned = self._warn(warned)
                if stop.wait(poll_s):
                    return
                superlink.keep_up()
                if gateway is not None:
                    gateway.keep_up()
                runs.look()

    def _tell_where(self, superlink: str) -> None:
        if self.has_gateway:
            self.report(f"up: sites call {self.federation.config.address} (the gateway); Ctrl-C stops it, all is kept")
        else:
            self.report(f"up on {superlink} without a gateway, for this machine alone; Ctrl-C stops it, all is kept")

    def _warn(self, warned: int) -> int:
        """Reports the certificates' warnings when a new stage is reached, and returns the stage.

        A file that is damaged while all runs is warned of too: what was started has read it before.
        """
        files, now = self.federation.certificates, datetime.now(UTC)
        try:
            reached = max(stage(expiry(path), now) for path in (files.certificate, files.authority))
            lines = self.federation.warnings()
        except InputError as error:
            reached, lines = DAMAGED, [str(error)]
        if reached > warned:
            for line in lines:
                self.report(f"warning: {line}")
        return reached
