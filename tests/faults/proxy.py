"""A TCP proxy of loopback that stands between a site and its coordinator: a slow, far, lossy link, or one that is cut.

A process cannot lose packets of the kernel's own connections, so loss is a model: each direction of a connection sends
segments of 1460 bytes as TCP Reno does (RFC 5681). A lost one arrives when it has been sent again, those behind it
wait, and the window is halved. The bits pass unchanged, TLS too.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

SEGMENT = 1460
"""Bytes: what an Ethernet frame carries."""
FIRST_WINDOW = 10
"""Segments, RFC 6928."""
LEAST_TIMEOUT_S = 0.2
"""Linux waits at least so long after a round trip before it sends again what no later segment has shown to be lost."""
DUPLICATES = 3
"""So many later segments show that one is lost."""
BURST_S, BURST_BYTES = 0.002, 1 << 16
"""What is handed to the line at one go: so long a part of it at most, and what Linux gives a network card."""
ROOM_BYTES = 1 << 16
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Link:
    """What lies between; as it stands, nothing."""

    bits_per_s: float = float("inf")
    """Each way, shared by all connections."""
    round_trip_s: float = 0.0
    loss: float = 0.0
    """Share of segments that are lost."""
    buffer_s: float = float("inf")
    """How long what waits for the line may take; a segment that comes to a full buffer is lost."""

    @property
    def shaped(self) -> bool:
        """Whether it is anything but a wire."""
        return self != Link()

    @property
    def burst(self) -> int:
        """Segments that are sent at one go."""
        return max(1, int(min(BURST_BYTES, self.bits_per_s * BURST_S / 8) / SEGMENT))


class Line:
    """One way of a link: one segment after the other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_at = 0.0

    def is_full(self, now: float) -> bool:
        """Whether the buffer takes no more."""
        return self._free_at - now > self._link.buffer_s

    def put(self, now: float, num_bytes: int) -> float:
        """Takes bytes and returns when the last one is on its way."""
        self._free_at = max(now, self._free_at) + num_bytes * 8 / self._link.bits_per_s
        return self._free_at


@dataclass
class Flow:
    """One way of one connection, without a clock of its own: every time is given."""

    link: Link
    line: Line
    chance: random.Random
    window: float = FIRST_WINDOW
    """Segments that may be on their way unacknowledged."""
    _threshold: float = float("inf")
    _acknowledged: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and how many segments."""
    _on_way: int = 0
    _arrived: float = 0.0
    _halved: float = 0.0
    _left: float = 0.0

    def may_send_at(self, now: float) -> float:
        """Returns when the window lets the next segment go."""
        while self._acknowledged and self._acknowledged[0][0] <= now:
            self._acknowledge()
        while self.room < 1:
            now = max(now, self._acknowledge())
        return now

    @property
    def room(self) -> int:
        """How many segments the window lets go now."""
        return int(self.window) - self._on_way

    def send(self, now: float, num_bytes: int) -> float:
        """Sends what one burst holds and returns when it arrives, after all before it."""
        num_segments = -(-num_bytes // SEGMENT)
        if not self._on_way and now - self._left > self.link.round_trip_s + LEAST_TIMEOUT_S:
            self.window = min(self.window, FIRST_WINDOW)  # RFC 5681, 4.1: what was known of the line is old
        is_lost = self.line.is_full(now) or self.chance.random() < 1 - (1 - self.link.loss) ** num_segments
        self._left = self.line.put(now, num_bytes)
        arrives = self._left + self.link.round_trip_s / 2
        if is_lost:
            arrives += self._lose(self._left)
        self._arrived = max(self._arrived, arrives)
        self._acknowledged.append((self._arrived + self.link.round_trip_s / 2, num_segments))
        self._on_way += num_segments
        return self._arrived

    def _acknowledge(self) -> float:
        """Slow start doubles the window in a round trip; past the threshold it grows by one."""
        when, num_segments = self._acknowledged.popleft()
        self._on_way -= num_segments
        for _ in range(num_segments):
            self.window += 1.0 if self.window < self._threshold else 1.0 / self.window
        return when

    def _lose(self, left: float) -> float:
        """Halves the window, once a round trip, and returns how much later the segment arrives."""
        quick = self._on_way >= DUPLICATES
        if left >= self._halved:
            self.window = self._threshold = max(2.0, self.window / 2)
            self._halved = left + self.link.round_trip_s
        return self.link.round_trip_s + (0.0 if quick else LEAST_TIMEOUT_S)


class Proxy:
    """Listens on `port` and passes all to another port of loopback; a context manager.

    A cut that is silent holds back what is sent, and lets nothing new through. It completes new TCP handshakes, which
    the kernel does for it; a true black hole would not.
    """

    def __init__(self, beyond: int | Callable[[], int], link: Link | None = None, seed: int = 0) -> None:
        self.port = 0
        self.down = self.up = 0
        """Bytes that were passed on, from beyond and back."""
        self._beyond = beyond if callable(beyond) else lambda: beyond
        self._link = link or Link()
        self._chance = random.Random(seed)
        self._lines = (Line(self._link), Line(self._link))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._way = asyncio.Event()
        """Set while the link carries."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def num_bytes(self) -> int:
        """That were passed on, both ways."""
        return self.down + self.up

    def refuse(self) -> None:
        """Cuts the link: every connection is broken, and new ones are refused."""
        self._do(self._close())

    def silence(self, forget: bool = False) -> None:
        """Cuts the link without a word; `forget`: what is open now stays silent for good, as behind a firewall."""
        self._do(self._silence(forget))

    def mend(self) -> None:
        """The link carries again."""
        self._do(self._open())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._way.set()
        if self._server is None:
            plain = self._socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.bind((HOST, self.port))
            self.port = plain.getsockname()[1]
            self._server = await asyncio.start_server(self._accepted, sock=plain, limit=16 * SEGMENT)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _silence(self, forget: bool) -> None:
        self._way.clear()
        if forget:
            self._forgotten |= self._tasks

    def _socket(self) -> socket.socket:
        """Small segments and little room over a shaped link, else loopback's kernel takes megabytes before the line."""
        plain = socket.socket()
        if self._link.shaped:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES)
        plain.setblocking(False)
        return plain

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with closing(writer):
                await self._carry(task, reader, writer)
        except (OSError, asyncio.CancelledError):
            return  # it is broken, or cut
        finally:
            self._tasks.discard(task)
            self._forgotten.discard(task)

    async def _carry(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(self._link.round_trip_s)  # the handshake
        await self._way.wait()
        plain = self._socket()
        await self._loop.sock_connect(plain, (HOST, self._beyond()))
        there, back = await asyncio.open_connection(sock=plain, limit=16 * SEGMENT)
        async with closing(back):
            passing = [
                asyncio.ensure_future(self._pass(task, source, target, down))
                for source, target, down in ((reader, back, False), (there, writer, True))
            ]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in passing:
                    each.cancel()
                await asyncio.gather(*passing, return_exceptions=True)

    async def _pass(
        self, task: asyncio.Task[None], source: asyncio.StreamReader, target: asyncio.StreamWriter, down: bool
    ) -> None:
        """Passes all that `source` gives; returns at its end."""
        if not self._link.shaped:
            while data := await source.read(1 << 16):
                await self._hand_on(task, target, data, down)
            await self._carries(task)
            return
        arriving: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._arrive(task, arriving, target, down))
            flow = Flow(self._link, self._lines[down], self._chance)
            while data := await source.read(min(flow.room, self._link.burst) * SEGMENT):
                await self._carries(task)
                arriving.put_nowait((flow.send(self._loop.time(), len(data)), data))
                await self._sleep_until(flow.may_send_at(self._loop.time()))
            arriving.put_nowait((self._loop.time() + self._link.round_trip_s / 2, b""))

    async def _arrive(
        self,
        task: asyncio.Task[None],
        arriving: "asyncio.Queue[tuple[float, bytes]]",
        target: asyncio.StreamWriter,
        down: bool,
    ) -> None:
        while True:
            when, data = await arriving.get()
            await self._sleep_until(when)
            if not data:
                await self._carries(task)
                return
            await self._hand_on(task, target, data, down)

    async def _hand_on(self, task: asyncio.Task[None], target: asyncio.StreamWriter, data: bytes, down: bool) -> None:
        await self._carries(task)
        if down:
            self.down += len(data)
        else:
            self.up += len(data)
        target.write(data)
        await target.drain()

    async def _carries(self, task: asyncio.Task[None]) -> None:
        """Waits out a silent cut; for a connection that is forgotten, for good."""
        if task in self._forgotten:
            await asyncio.Event().wait()
        await self._way.wait()

    async def _sleep_until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self._loop.time()))


@contextlib.asynccontextmanager
async def closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Breaks the connection off on leaving, whatever is still to be sent."""
    try:
        yield
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()
    except BaseException:
        writer.transport.abort()
        raise
