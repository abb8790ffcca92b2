"""The plugin ``sqlite``: opens ``sqlite:`` URLs, and arms recording for every bus unless ``CREWBUS_RECORD`` is off."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from crewbus import InputError, hookimpl
from crewbus_sqlite._store import BUSY, LEASE, SQLiteStore

if TYPE_CHECKING:
    from crewbus import Bus, Store

DEFAULT_URL: Final = "sqlite:///crewbus.db"
FORM: Final = "sqlite:///relative/path.db or sqlite:////absolute/path.db, and after that ?lease=SECONDS&busy=SECONDS"
OFF: Final = ("0", "false", "no", "off")


@hookimpl
def crewbus_configure(bus: Bus) -> None:
    """Arm recording to ``CREWBUS_STORE`` or ``crewbus.db``, unless ``CREWBUS_RECORD`` is off or nothing records."""
    records = bus.plugins.hook.crewbus_record.get_hookimpls()
    if records and os.environ.get("CREWBUS_RECORD", "").strip().lower() not in OFF:
        bus.enable_recording(os.environ.get("CREWBUS_STORE") or DEFAULT_URL)
        if isinstance(bus.store, SQLiteStore):
            bus.store.name_plugin("sqlite")


@hookimpl
def crewbus_open_store(url: str) -> Store | None:
    """Open an ``sqlite:`` URL. The first event creates the file."""
    if url.partition(":")[0] != "sqlite":
        return None
    address, _, query = url.partition("?")
    path = address.removeprefix("sqlite:///")
    if path == address or path in {"", "/", ":memory:"}:
        raise InputError(f"{url!r} names no file: an SQLite store is {FORM}")
    options = _options(url, query)
    return SQLiteStore(path, lease=options["lease"], busy=options["busy"])


def _options(url: str, query: str) -> dict[str, float]:
    options = {"lease": LEASE, "busy": BUSY}
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            if name not in options:
                raise ValueError(f"there is no option {name!r}")
            options[name] = float(value)
    except ValueError as error:
        raise InputError(f"{url!r}: {error}. An SQLite store is {FORM}") from error
    return options
