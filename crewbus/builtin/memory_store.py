"""The plugin ``memory_store``: opens ``memory:`` URLs as a `MemoryStore`."""

from __future__ import annotations

from crewbus import InputError, Store, hookimpl
from crewbus.stores import MemoryStore


@hookimpl
def crewbus_open_store(url: str) -> Store | None:
    """Open ``memory:`` or ``memory:?max_bytes=N``."""
    scheme, _, rest = url.partition(":")
    if scheme != "memory":
        return None
    option, _, value = rest.strip("/").removeprefix("?").partition("=")
    if not option:
        return MemoryStore()
    if option != "max_bytes" or not value.isdecimal():
        raise InputError(f"{url!r} is not a memory store: use 'memory:' or 'memory:?max_bytes=N'")
    return MemoryStore(int(value))
