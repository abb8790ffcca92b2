"""A TCP proxy between a store and its server, which can be cut in the ways in which networks fail."""

from __future__ import annotations

import enum
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

PIECE: Final = 1 << 16


class Cut(enum.Enum):
    """How the network between a store and its server fails."""

    RESET = "reset"
    """Connections end, and no new one is accepted."""
    SILENCE = "silence"
    """Nothing arrives any more, and neither side is told: connections are half-open, and stay so when it is healed."""
    ANSWERS = "answers"
    """What the store sends arrives; the answers don't. The connection whose answer was lost is silent from then on."""
    PAUSE = "pause"
    """Nothing arrives until it is healed, and then everything does, as if the server had been stopped meanwhile."""


class TcpProxy:
    """Forwards the connections to ``port`` of this host to ``target``, a host and a port, until it is closed.

    It knows nothing of what is said. Change `target` to have new connections lead to another server.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._how: Cut | None = None
        self._answers_left = 0
        self._lost = threading.Event()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._start(self._accept)

    def cut(self, how: Cut, answers: int = 0) -> threading.Event:
        """Cut all connections, and those to come until `heal`; returns what is set once something was lost.

        With `Cut.ANSWERS` so many ``answers`` still arrive, over all connections.
        """
        with self._changed:
            self._how, self._answers_left, self._lost = how, answers, threading.Event()
            for link in list(self._links):
                if how is Cut.RESET:
                    link.close()
                elif link.how is not Cut.SILENCE:
                    link.how = how
            self._changed.notify_all()
            return self._lost

    def heal(self) -> None:
        """Forward again. Half-open connections stay so."""
        with self._changed:
            self._how = None
            for link in self._links:
                if link.how is not Cut.SILENCE:
                    link.how = None
            self._changed.notify_all()

    def close(self) -> None:
        """End all connections, and the threads."""
        with self._changed:
            self._closed = True
            for link in list(self._links):
                link.close()
            self._changed.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, function: object, *args: object) -> None:
        assert callable(function)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=function, args=args, name="proxy", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it is closed
                return
            with self._changed:
                if self._how is Cut.RESET or self._closed:
                    client.close()
                    continue
                try:
                    link = _Link(client, socket.create_connection(self.target), self._how)
                except OSError:  # nobody listens there
                    client.close()
                    continue
                self._links.add(link)
                self._start(self._forward, link, link.client, link.server)
                self._start(self._forward, link, link.server, link.client)

    def _forward(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                if self._passes(link, is_answer=source is link.server):
                    sink.sendall(data)
        with self._changed:
            # The other side of a half-open connection does not hear that this one has ended.
            self._changed.wait_for(lambda: link.closed or self._closed or link.how not in (Cut.SILENCE, Cut.PAUSE))
            link.close()
            self._links.discard(link)

    def _passes(self, link: _Link, *, is_answer: bool) -> bool:
        """Whether what has arrived may be forwarded, once that is decided."""
        with self._changed:
            self._changed.wait_for(lambda: link.how is not Cut.PAUSE or link.closed)
            if link.how is Cut.ANSWERS and is_answer:
                if self._answers_left > 0:
                    self._answers_left -= 1
                else:
                    link.how = Cut.SILENCE
            if link.how is Cut.SILENCE:
                self._lost.set()
            return link.how is not Cut.SILENCE and not link.closed


class _Link:
    """A connection of a client, and the one to the server that goes with it."""

    def __init__(self, client: socket.socket, server: socket.socket, how: Cut | None) -> None:
        self.client: Final = client
        self.server: Final = server
        self.how = how
        """How it is cut, or None. A half-open one has `Cut.SILENCE`, whatever it was cut by."""
        self.closed = False

    def close(self) -> None:
        """End both connections. The threads that forward wake up."""
        self.closed = True
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
