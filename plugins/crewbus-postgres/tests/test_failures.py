"""Outages, roles, passwords and versions."""

from __future__ import annotations

import pickle
import traceback

import psycopg
import pytest
from postgres_helpers import schema_for

from crewbus import InputError, RecordingError, StoreVersionError
from crewbus.stores import StoredEvent
from crewbus_postgres import PostgresStore, _plugin, schema_sql
from crewbus_postgres import _commit as commit_module

PATIENCE = 60.0
PASSWORD = "s3cret"


def noted(seq, root="a"):
    return StoredEvent(root, seq, None, 1.5, None, 0, "tests.Noted", 1, b"{}")


@pytest.fixture
def admin(server):
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection


@pytest.fixture
def store(server, schema):
    made = PostgresStore(server, schema=schema)
    yield made
    made.close()


def end(session, admin):
    """End a session on the server."""
    admin.execute("SELECT pg_terminate_backend(%s, 10000)", [session.connection.info.backend_pid])


def test_a_write_whose_answer_is_lost_is_not_written_twice(store, admin, monkeypatch):
    """Before the statement and after it: the sessions end, and the batch is sent again."""
    epoch = store.begin("a")
    write, left = commit_module.write, ["after", "before", "after"]

    def cut(session, batches, token):
        when = left.pop() if batches and left else None
        if when == "before":
            end(session, admin)
        write(session, batches, token)
        if when == "after":
            end(session, admin)
            session.rows("SELECT 1")

    monkeypatch.setattr(commit_module, "write", cut)
    for seq in range(6):
        store.append("a", epoch, noted(seq))
        store.flush(PATIENCE)
    store.finish("a", epoch)
    store.flush(PATIENCE)
    assert left == []
    assert [event.seq for event in store.read("a")] == list(range(6))
    assert store.info("a").sealed


def test_events_wait_while_the_server_is_gone_and_are_rejected_after_patience(server, schema, monkeypatch):
    store = PostgresStore(server, schema=schema)
    epoch = store.begin("a")
    store.append("a", epoch, noted(0))
    store.flush(PATIENCE)
    connect, gone = store._database._take, [True]

    def take():
        if gone[0]:
            raise psycopg.OperationalError("the server is gone")
        return connect()

    monkeypatch.setattr(store._database, "_take", take)
    store.append("a", epoch, noted(1))
    store._writer._patience = 0.0  # which has passed, then
    with pytest.raises(RecordingError, match="the server is gone"):
        store.flush(PATIENCE)
    with pytest.raises(RecordingError, match="the server is gone"):
        store.append("a", epoch, noted(2))
    store._writer._patience = PATIENCE
    store.append("a", epoch, noted(2))
    assert store.backlog().events == 2
    gone[0] = False
    store.flush(PATIENCE)
    assert [event.seq for event in store.read("a")] == [0, 1, 2]
    store.close()


def test_a_run_begins_while_the_server_is_gone(store, monkeypatch):
    connect, gone = store._database._take, [True]

    def take():
        if gone[0]:
            raise psycopg.OperationalError("the server is gone")
        return connect()

    monkeypatch.setattr(store._database, "_take", take)
    epoch = store.open_log("a")
    store.append("a", epoch, noted(0))
    assert store.backlog().events == 1
    gone[0] = False
    store.flush(PATIENCE)
    assert [event.seq for event in store.read("a")] == [0]


def test_no_password_is_shown():
    url = f"postgresql://crew:{PASSWORD}@127.0.0.1:1/agents"
    store = PostgresStore(url, patience=0.0)
    shown = [repr(store), store.name]
    with pytest.raises(RecordingError) as refused:
        store.roots()
    shown += [repr(refused.value), "".join(traceback.format_exception(refused.value))]
    with pytest.raises(InputError) as invalid:
        _plugin.crewbus_open_store(f"postgresql://crew:{PASSWORD}@h/x?nonsense={PASSWORD}")
    shown += ["".join(traceback.format_exception(invalid.value))]
    store.close()
    assert not [text for text in shown if PASSWORD in text]


def test_a_role_without_rights_uses_tables_that_are_there(server, schema, admin):
    role = f"role_{schema}"
    admin.execute(f"CREATE ROLE {role}")
    url = f"{server}{'&' if '?' in server else '?'}options=-c%20role%3D{role}"
    store = PostgresStore(url, schema=schema)
    store.begin("a")
    with pytest.raises(RecordingError, match="crewbus store sql"):
        store.flush(PATIENCE)
    admin.execute(schema_sql(schema).encode())
    admin.execute(
        f"GRANT USAGE ON SCHEMA {schema} TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
    )
    other = PostgresStore(url, schema=schema)
    epoch = other.begin("b")
    other.append("b", epoch, noted(0, "b"))
    other.flush(PATIENCE)
    assert [event.seq for event in other.read("b")] == [0]
    other.close()
    store.flush(PATIENCE)  # what waited was kept
    assert sorted(store.roots()) == ["a", "b"]
    store.close()


def test_a_newer_schema_is_rejected(store, server, schema, admin):
    store.begin("a")
    store.flush(PATIENCE)
    admin.execute(f"UPDATE {schema}.meta SET version = 99")
    newer = PostgresStore(server, schema=schema)
    with pytest.raises(StoreVersionError, match="version 99"):
        newer.roots()
    newer.close()


def test_a_schema_is_a_plain_name(tmp_path):
    assert schema_for(tmp_path) in schema_sql(schema_for(tmp_path))
    for name in ("", "x; DROP", 'a"b', "x" * 64):
        with pytest.raises(InputError):
            schema_sql(name)


def test_options_are_read_from_the_url():
    store = _plugin.crewbus_open_store("postgresql://h/d?lease=3&schema=x&connect_timeout=2")
    assert (store.name, store.schema) == ("postgresql://h/d", "x")
    store.close()
    assert _plugin.crewbus_open_store("sqlite:///x.db") is None
    for url in ("postgresql://h/d?lease=0", "postgresql://h/d?lease=long", "postgresql://h/d?connections=1"):
        with pytest.raises(InputError):
            _plugin.crewbus_open_store(url)


def test_corrupt_rows_are_noticed(store, schema, admin):
    epoch = store.begin("a")
    for seq in range(3):
        store.append("a", epoch, noted(seq)._replace(data=pickle.dumps(seq)))
    store.flush(PATIENCE)
    admin.execute(f"UPDATE {schema}.events SET attempt = 7")
    with pytest.raises(RecordingError, match="not as it was written"):
        list(store.read("a"))
    admin.execute(f"DELETE FROM {schema}.events")
    with pytest.raises(RecordingError, match="event 0 is missing"):
        list(store.read("a"))
