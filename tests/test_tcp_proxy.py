"""The proxy of the contract for networks: what it forwards, and what is lost in each way of cutting it."""

from __future__ import annotations

import socket
import threading

import pytest
from helpers import TIMEOUT

from crewbus.testing import Cut, TcpProxy


class Echo:
    """A server that answers each line with itself, and keeps what it received."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.received = []
        self.arrived = threading.Condition()
        self._connections = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._answer, args=[connection])
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection):
        with connection, connection.makefile("rwb", buffering=0) as file:
            for line in iter(file.readline, b""):
                with self.arrived:
                    self.received.append(line)
                    self.arrived.notify_all()
                file.write(line)

    def wait_for(self, line):
        with self.arrived:
            assert self.arrived.wait_for(lambda: line in self.received, TIMEOUT)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(TIMEOUT)


class Client:
    def __init__(self, proxy):
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)
        self.file = self.socket.makefile("rwb", buffering=0)

    def say(self, line):
        self.file.write(line)

    def hears(self):
        return self.file.readline()

    def hears_nothing(self):
        self.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            self.socket.recv(1)

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def echo():
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo):
    with TcpProxy(echo.address) as made:
        yield made


@pytest.fixture
def client(proxy):
    made = Client(proxy)
    made.say(b"first\n")
    assert made.hears() == b"first\n"
    yield made
    made.close()


def test_reset_ends_connections_and_refuses_new_ones(proxy, client):
    proxy.cut(Cut.RESET)
    assert client.hears() == b""
    refused = Client(proxy)
    assert refused.hears() == b""
    refused.close()
    proxy.heal()
    again = Client(proxy)
    again.say(b"again\n")
    assert again.hears() == b"again\n"
    again.close()


def test_silence_leaves_connections_half_open_for_ever(proxy, client, echo):
    lost = proxy.cut(Cut.SILENCE)
    assert not lost.is_set()
    client.say(b"lost\n")
    assert lost.wait(TIMEOUT)
    proxy.heal()
    client.hears_nothing()
    again = Client(proxy)
    again.say(b"again\n")
    assert again.hears() == b"again\n"
    again.close()
    assert echo.received == [b"first\n", b"again\n"]


@pytest.mark.parametrize("count", [0, 2])
def test_answers_are_lost_after_so_many(proxy, client, echo, count):
    lost = proxy.cut(Cut.ANSWERS, count)
    for number in range(count):
        client.say(b"%d\n" % number)
        assert client.hears() == b"%d\n" % number
    client.say(b"done\n")
    echo.wait_for(b"done\n")
    assert lost.wait(TIMEOUT)
    client.hears_nothing()
    proxy.cut(Cut.RESET)


def test_a_pause_loses_nothing(proxy, client, echo):
    lost = proxy.cut(Cut.PAUSE)
    client.say(b"late\n")
    client.hears_nothing()
    client.socket.settimeout(TIMEOUT)
    proxy.heal()
    assert client.hears() == b"late\n"
    assert not lost.is_set()


def test_new_connections_lead_to_another_target(proxy, client):
    other = Echo()
    proxy.target = other.address
    client.say(b"old\n")
    assert client.hears() == b"old\n"
    new = Client(proxy)
    new.say(b"new\n")
    assert new.hears() == b"new\n"
    assert other.received == [b"new\n"]
    new.close()
    proxy.cut(Cut.RESET)
    other.close()


@pytest.mark.parametrize("how", Cut)
def test_closing_ends_what_is_cut(echo, how):
    proxy = TcpProxy(echo.address)
    client = Client(proxy)
    client.say(b"first\n")
    assert client.hears() == b"first\n"
    proxy.cut(how)
    proxy.close()
    assert client.hears() == b""
    client.close()


def test_a_target_that_is_not_there_ends_the_connection(proxy):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        proxy.target = gone.getsockname()
    client = Client(proxy)
    assert client.hears() == b""
    client.close()
