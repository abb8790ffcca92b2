"""Who may do what: the application's `Authorize`, or loopback addresses alone."""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs
from starlette.requests import HTTPConnection

from crewbus import RunInfo
from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["ACTIONS", "WRITES", "Access", "Action", "Authorize", "Found", "is_loopback"]

Action: TypeAlias = Literal["list", "read", "start", "cancel", "send", "fork"]
Authorize: TypeAlias = Callable[["Request", Action, RunInfo | None], bool | Awaitable[bool]]
"""``authorize(request, action, run)``: whether the client may do this to the run, which is None for ``list`` and for a
run that is to be started. For a nested run it is the run around it."""
ACTIONS: Final[tuple[Action, ...]] = ("list", "read", "start", "cancel", "send", "fork")
WRITES: Final[frozenset[Action]] = frozenset({"start", "cancel", "send", "fork"})
"""The actions that change something."""


@attrs.frozen
class Found:
    """A run, nested or not, and what is known of its root run."""

    id: str
    root: RunInfo

    @property
    def is_root(self) -> bool:
        """Whether it is nested in no other run."""
        return self.id == self.root.id


class Access:
    """Decides each access. ``find`` looks up a run by its id; ``write``: whether anything may be changed."""

    def __init__(self, find: Callable[[str], Awaitable[Found]], authorize: Authorize | None, *, write: bool) -> None:
        self._find = find
        self._authorize = authorize
        self._write = write

    @property
    def is_open(self) -> bool:
        """Whether nobody decides, so that whoever reaches the server may do all."""
        return self._authorize is None

    async def allows(self, request: Request, action: Action, run: RunInfo | None = None) -> bool:
        """Whether ``authorize`` allows it."""
        if self._authorize is None:
            return True
        allowed = self._authorize(request, action, run)
        return bool(await allowed if inspect.isawaitable(allowed) else allowed)

    async def require(self, request: Request, action: Action, run: RunInfo | None = None) -> None:
        """Raise `Problem` unless it is allowed. A run that the client may not read is not found."""
        if action in WRITES and not self._write:
            raise Problem("read-only", "start it with --write, or app(write=True), to allow changes")
        if await self.allows(request, action, run):
            return
        if run is not None and (action == "read" or not await self.allows(request, "read", run)):
            raise Problem("not-found", "there is no such run")
        raise Problem("forbidden")

    async def find(self, request: Request, action: Action, run_id: str | None = None) -> Found:
        """The run that a request names, or ``run_id``, if the client may do this to it. Raises `Problem`."""
        if action in WRITES and not self._write:
            await self.require(request, action)
        found = await self._find(request.path_params["run"] if run_id is None else run_id)
        await self.require(request, action, found.root)
        return found

    async def readable(self, request: Request, runs: Iterable[RunInfo]) -> list[RunInfo]:
        """Those of the runs that the client may read."""
        if self._authorize is None:
            return list(runs)
        return [run for run in runs if await self.allows(request, "read", run)]

    def check_origin(self, connection: HTTPConnection) -> None:
        """Raise `Problem` for what a page of another site may have sent, or one whose name leads here.

        Without ``authorize`` only loopback addresses are answered. So a name that someone has point to this host
        (DNS rebinding) reaches nothing, nor does the network.
        """
        host = connection.headers.get("host", "")
        if self.is_open and not (_is_local(connection) and is_loopback(_name_of(host))):
            raise Problem("misdirected", "without authorize= it is for this computer alone")
        if connection.scope["type"] == "http" and connection.scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = connection.headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                raise Problem("cross-site")
            if connection.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Problem("cross-site")


def _is_local(connection: HTTPConnection) -> bool:
    server = connection.scope.get("server")
    return server is None or server[1] is None or is_loopback(server[0])  # None: a Unix socket


def _name_of(host: str) -> str:
    """The name in a Host header, without a port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a name or address is certainly this computer's own."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
