"""The page for operators: its statements can be executed."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from crewbus.stores import StoredEvent
from crewbus_postgres import PostgresStore

PAGE = (Path(__file__).parents[3] / "docs" / "howto" / "run-on-postgresql.md").read_text("utf-8")
STATEMENTS = re.findall(r"^```sql\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
PATIENCE = 60.0


@pytest.fixture
def admin(server, schema):
    """A role that owns the tables, with a run in them."""
    store = PostgresStore(server, schema=schema)
    started = StoredEvent("a", 0, None, 1.5, None, 0, "crewbus.RunStarted", 1, b'{"tags": {"crewbus.workflow": "x@1"}}')
    store.append("a", store.begin("a"), started)
    store.flush(PATIENCE)
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection
    store.close()


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: " ".join(text.split()[:4]))
def test_each_statement_can_be_executed(admin, schema, statement):
    own = re.sub(r"(?<!')\bcrewbus\.", f"{schema}.", statement)  # but not in the names of tags
    own = own.replace("SCHEMA crewbus", f"SCHEMA {schema}").replace("= 'crewbus'", f"= '{schema}'")
    own = re.sub(r"\bcrew\b", f"crew_{schema}", own)
    cursor = admin.execute(own.encode())
    if "FROM crewbus.holders" in statement:
        assert [row[1] for row in cursor.fetchall()] == [1]
