"""``crewbus serve``: the runs of a store over HTTP."""

from __future__ import annotations

import argparse
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from crewbus import InputError
from crewbus.cli import Terminal, add_store_argument, load_object, open_store, paragraph
from crewbus_http.app import app
from crewbus_http.authorize import is_loopback
from crewbus_http.service import HEARTBEAT

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from crewbus import Bus, Commands

__all__ = ["Server", "add_to", "listening"]

GRACE: Final = 5.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "serve",
        main,
        help="serve runs over HTTP, until a signal stops it",
        description=paragraph(
            "Import MODULE..., which register workflows, and serve the runs of the store over HTTP: for browsers and",
            "other languages. Workers execute them.",
            "Without --authorize it listens on loopback addresses alone, and without --write nothing can be changed.",
            "SIGTERM ends the streams, so that clients come back to another server, with what they have not seen.",
        ),
        epilog="examples:\n"
        "  crewbus serve agents --write\n"
        "  crewbus serve agents.py --host 0.0.0.0 --authorize access.py:authorize --write",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    option = parser.add_argument
    option("modules", metavar="MODULE", nargs="*", help="module or path.py that registers workflows")
    option("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    option("--port", type=int, default=8000, help="the port; 0: any (default: %(default)s)")
    option("--write", action="store_true", help="allow to start, cancel, fork, and to send messages")
    option("--authorize", metavar="TARGET", help="module:callable(request, action, run) that decides each access")
    option("--heartbeat", metavar="SECONDS", type=float, default=HEARTBEAT, help="of silence (default: %(default)s)")
    option("--grace", metavar="SECONDS", type=float, default=GRACE, help="for streams to end (default: %(default)s)")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Serve until a signal comes."""
    open_store(args, bus)
    for module in args.modules:
        load_object(module)
    authorize: Any = load_object(args.authorize) if args.authorize is not None else None
    if authorize is not None and not callable(authorize):
        raise InputError(f"--authorize {args.authorize}: it can't be called")
    if authorize is None and not is_loopback(args.host):
        raise InputError(
            f"--host {args.host} can be reached from elsewhere: name who may do what with --authorize, or listen on "
            "127.0.0.1"
        )
    terminal = Terminal()
    with listening(args.host, args.port) as bound:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        who = "what --authorize allows" if authorize is not None else "this computer alone: there is no --authorize"
        terminal.note(f"serving on http://{shown}:{port}, for {who}; Ctrl-C stops it")
        made = app(bus, authorize, write=args.write, heartbeat=args.heartbeat)
        Server(made, grace=args.grace).run([bound])
    terminal.note("stopped")
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `InputError`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}") from None


class Server(uvicorn.Server):
    """A server that lets its followers go when it is told to stop, instead of waiting for them."""

    def __init__(self, application: Starlette, *, grace: float = GRACE, **options: Any) -> None:
        config = uvicorn.Config(
            application, log_level="warning", timeout_graceful_shutdown=max(1, round(grace)), **options
        )
        super().__init__(config)
        self._runs = application.state.runs

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and go on behind it: uvicorn would raise it again, and the bus would not be closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: the streams end, and their clients come back elsewhere."""
        self._runs.drain()
        await super().shutdown(sockets)
