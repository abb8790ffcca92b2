"""The plugin ``postgres``: opens ``postgresql:`` URLs, arms recording where ``CREWBUS_STORE`` is one, and has a
command that prints the schema."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from crewbus import InputError, hookimpl
from crewbus_postgres._schema import schema_sql
from crewbus_postgres._store import BACKLOG, CONNECTIONS, LEASE, LISTEN, PATIENCE, SCHEMA, TIMEOUT, PostgresStore

if TYPE_CHECKING:
    import argparse

    from crewbus import Bus, Commands, Store

SCHEMES: Final = ("postgresql", "postgres")
OFF: Final = ("0", "false", "no", "off")


@hookimpl
def crewbus_configure(bus: Bus) -> None:
    """Arm recording if ``CREWBUS_STORE`` is a PostgreSQL URL, unless ``CREWBUS_RECORD`` is off or nothing records."""
    url = os.environ.get("CREWBUS_STORE", "")
    records = bus.plugins.hook.crewbus_record.get_hookimpls()
    wanted = os.environ.get("CREWBUS_RECORD", "").strip().lower() not in OFF
    if records and wanted and url.partition(":")[0] in SCHEMES and not bus.recording.armed:
        bus.enable_recording(url)


@hookimpl
def crewbus_open_store(url: str) -> Store | None:
    """Open a ``postgresql:`` URL. The first event connects."""
    if url.partition(":")[0] not in SCHEMES:
        return None
    address, _, query = url.partition("?")
    options: dict[str, Any] = {
        "schema": SCHEMA,
        "lease": LEASE,
        "patience": PATIENCE,
        "backlog": BACKLOG,
        "connections": CONNECTIONS,
        "timeout": TIMEOUT,
        "listen": LISTEN,
    }
    others = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            options[name] = _converted(name, value, type(options[name]))
        else:
            others.append((name, value))
    return PostgresStore(f"{address}?{urlencode(others)}" if others else address, **options)


def _converted(name: str, value: str, kind: type) -> object:
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"a PostgreSQL store's option {name} can't be {value!r}") from error


@hookimpl
def crewbus_cli_commands(commands: Commands) -> None:
    """Add ``crewbus store``."""
    commands.add(
        "store",
        _print_sql,
        help="print the SQL that creates the tables of a PostgreSQL store",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["sql"], help="sql: the statements, for a role that may create tables")
    parser.add_argument("--since", type=int, default=0, metavar="VERSION", help="the version of tables that are there")
    parser.add_argument("--schema", default=SCHEMA, help=f"the schema of the tables (default: {SCHEMA})")


def _print_sql(args: argparse.Namespace, _bus: Any) -> None:
    sys.stdout.write(f"{schema_sql(args.schema, since=args.since)}\n")
