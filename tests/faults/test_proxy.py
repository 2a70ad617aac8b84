"""The proxy: it passes what it is given, as slowly, as late and as seldom as its link says."""

import random
import socket
import socketserver
import threading
import time
from contextlib import closing, contextmanager

import pytest
from faults.proxy import SEGMENT, Flow, Line, Link, Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def calling(port, timeout_s=5.0):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=timeout_s)) as connection:
        yield connection


def echoed(connection, data):
    """What comes back for `data`, sent and read at the same time."""
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    back = b""
    while len(back) < len(data):
        back += connection.recv(1 << 16)
    sender.join()
    return back


def flow(link, seed=0, line=None):
    return Flow(link, line or Line(link), random.Random(seed))


def arrivals(flow, num_segments):
    """When each of so many segments arrives that are sent as soon as the window lets them."""
    now, found = 0.0, []
    for _ in range(num_segments):
        now = flow.may_send_at(now)
        found.append(flow.send(now, SEGMENT))
    return found


def test_the_first_window_arrives_after_half_a_round_trip_and_the_next_after_a_whole_one_more():
    times = arrivals(flow(Link(round_trip_s=0.2)), 31)
    assert times == pytest.approx([0.1] * 10 + [0.3] * 20 + [0.5])


def test_a_line_sends_one_bit_after_the_other_whoever_sends():
    link = Link(bits_per_s=SEGMENT * 8)  # a segment a second
    line = Line(link)
    one, other = flow(link, line=line), flow(link, line=line)
    assert [one.send(0.0, SEGMENT), other.send(0.0, SEGMENT), one.send(5.0, SEGMENT)] == [1.0, 2.0, 6.0]


def test_a_lost_segment_comes_a_round_trip_later_and_holds_back_those_behind_it():
    link = Link(round_trip_s=0.2, loss=0.5)
    sending = flow(link)
    sending.chance = iter_chance(0.9, 0.9, 0.9, 0.1, 0.9)
    assert arrivals(sending, 5) == pytest.approx([0.1, 0.1, 0.1, 0.3, 0.3])
    assert sending.window == 5.0


def test_the_first_segments_are_missed_only_by_a_timeout():
    sending = flow(Link(round_trip_s=0.2, loss=0.5))
    sending.chance = iter_chance(0.1, 0.9)
    assert arrivals(sending, 2) == pytest.approx([0.5, 0.5])


def test_a_burst_goes_as_its_segments_would_and_is_lost_if_one_of_them_is():
    link = Link(bits_per_s=SEGMENT * 8, round_trip_s=0.2)  # a segment a second
    sending = flow(link)
    assert sending.send(0.0, 3 * SEGMENT) == pytest.approx(3.1)
    assert (sending.room, sending.window) == (7, 10)
    assert sending.may_send_at(3.2) == 3.2
    assert (sending.room, sending.window) == (13, 13)
    lossy = flow(Link(round_trip_s=0.2, loss=0.1))  # of three, one at least with 0.271
    lossy.chance = iter_chance(0.28, 0.27, 0.28)
    assert [lossy.send(0.0, 3 * SEGMENT) for _ in range(3)] == pytest.approx([0.1, 0.3, 0.3])
    assert lossy.window == 5.0


def test_what_finds_the_buffer_full_is_lost():
    link = Link(bits_per_s=SEGMENT * 8, round_trip_s=0.2, buffer_s=4.0)
    times = arrivals(flow(link), 7)
    assert times == pytest.approx([1.1, 2.1, 3.1, 4.1, 5.1, 6.3, 7.1])  # five wait; the last one, for a window of five


def test_a_window_shrinks_to_the_first_one_in_a_pause():
    sending = flow(Link(round_trip_s=0.2))
    arrivals(sending, 100)
    assert sending.may_send_at(2.0) == 2.0
    assert sending.window > 50
    sending.send(2.0, SEGMENT)
    assert sending.window == 10.0


def test_a_fast_line_takes_more_at_one_go_than_a_slow_one():
    assert [Link(bits_per_s=speed).burst for speed in (4e6, 20e6, 100e6, float("inf"))] == [1, 3, 17, 44]


class iter_chance:  # noqa: N801
    """Random numbers that are given."""

    def __init__(self, *values):
        self._values = iter(values)

    def random(self):
        return next(self._values)


def test_a_lossy_flow_is_as_fast_as_the_formula_of_mathis_says():
    """Mathis et al. 1997: segment / round trip * sqrt(3/2) / sqrt(loss) bytes per second, for TCP Reno."""
    link, num_segments = Link(round_trip_s=0.3, loss=0.01), 20_000
    last = arrivals(flow(link), num_segments)[-1]
    expected = SEGMENT / 0.3 * 1.5**0.5 / 0.01**0.5
    assert num_segments * SEGMENT / last == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("link", [Link(), Link(bits_per_s=50e6, round_trip_s=0.002, loss=0.01)])
def test_what_is_sent_comes_back_unchanged(echo, link):
    data = random.Random(1).randbytes(300_000)
    with Proxy(echo, link) as proxy, calling(proxy.port) as connection:
        assert echoed(connection, data) == data
        assert proxy.num_bytes == 2 * len(data)
        assert (proxy.down, proxy.up) == (len(data), len(data))


def test_a_shaped_link_is_no_faster_than_it_says(echo):
    with Proxy(echo, Link(bits_per_s=4e6, round_trip_s=0.05)) as proxy, calling(proxy.port) as connection:
        started = time.monotonic()
        assert echoed(connection, b"a") == b"a"
        assert time.monotonic() - started >= 0.1  # the handshake and the byte
        started = time.monotonic()
        assert len(echoed(connection, b"a" * 50_000)) == 50_000
        assert time.monotonic() - started >= 0.1  # 400 kbit


def test_a_refusing_cut_breaks_what_is_open_and_refuses_what_is_new(echo):
    with Proxy(echo) as proxy:
        with calling(proxy.port) as connection:
            assert echoed(connection, b"a") == b"a"
            proxy.refuse()
            with pytest.raises(ConnectionError):
                echoed_or_broken(connection)
        with pytest.raises(ConnectionRefusedError), calling(proxy.port):
            pass
        proxy.mend()
        with calling(proxy.port) as connection:
            assert echoed(connection, b"b") == b"b"


def echoed_or_broken(connection):
    connection.sendall(b"a")
    if connection.recv(1) == b"":
        raise ConnectionResetError


def test_a_silent_cut_holds_back_and_after_it_all_arrives(echo):
    with Proxy(echo) as proxy, calling(proxy.port, timeout_s=0.2) as connection:
        assert echoed(connection, b"a") == b"a"
        proxy.silence()
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with calling(proxy.port, timeout_s=0.2) as new:
            new.sendall(b"c")
            with pytest.raises(TimeoutError):
                new.recv(1)
            proxy.mend()
            connection.settimeout(5.0)
            new.settimeout(5.0)
            assert (connection.recv(1), new.recv(1)) == (b"b", b"c")


def test_what_a_silent_cut_forgets_stays_silent(echo):
    with Proxy(echo) as proxy, calling(proxy.port, timeout_s=0.2) as connection:
        assert echoed(connection, b"a") == b"a"
        proxy.silence(forget=True)
        proxy.mend()
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with calling(proxy.port) as new:
            assert echoed(new, b"c") == b"c"
