"""The line: who is told of changes, who is seen to be alive, and what a lost session does."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import textwrap
import threading
import time

import psycopg
import pytest

import crewbus
from crewbus import RecordingError, StoreVersionError
from crewbus.stores import StoredEvent
from crewbus_postgres import PostgresStore, _schema
from crewbus_postgres._watched import Watched

PATIENCE = 60.0
FOREVER = 1e6
"""Seconds of a lease that no test sees the end of, or a renewal of."""


def noted(seq, root="a"):
    return StoredEvent(root, seq, None, 1.5, None, 0, "tests.Noted", 1, b"{}")


def until(condition):
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        pause.wait(0.005)


@pytest.fixture
def admin(server):
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection


@pytest.fixture
def stores(server, schema):
    """Makes stores, each as of a process of its own."""
    made = []

    def make(**options):
        made.append(PostgresStore(server, schema=schema, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def write(store, root, epoch, *numbers):
    for seq in numbers:
        store.append(root, epoch, noted(seq, root))
    store.flush(PATIENCE)


@pytest.mark.parametrize("listen", ["auto", "off"])
def test_who_watches_a_log_is_told_of_it_alone(stores, listen):
    writer, reader = stores(), stores(listen=listen)
    epochs = {root: writer.begin(root) for root in "abc"}
    for root, epoch in epochs.items():
        write(writer, root, epoch, 0)
    told = {root: threading.Event() for root in "ab"}
    stops = [reader.watch_log(root, event.set) for root, event in told.items()]
    until(lambda: (reader._line.live is not None or listen == "off") and len(reader._line.watched._seen) == 2)
    for event in told.values():
        event.clear()
    write(writer, "c", epochs["c"], 1)
    write(writer, "b", epochs["b"], 1)
    assert told["b"].wait(PATIENCE)
    assert not told["a"].is_set()
    for stop in stops:
        stop()
    assert not reader._line.watched


@pytest.mark.parametrize("listen", ["auto", "off"])
def test_who_watches_for_work_is_told(stores, listen):
    other, worker = stores(), stores(listen=listen)
    told = threading.Event()
    stop = worker.watch_work(told.set)
    until(lambda: worker._line.live is not None or (listen == "off" and worker._line._snapshot is not None))
    event = noted(0, "b")._replace(name="crewbus.RunStarted", data=b'{"name": null, "tags": {}}')
    for change in (lambda: other.create("b", [event]), lambda: other.post("b", "u", b"1")):
        told.clear()
        change()
        assert told.wait(PATIENCE)
    stop()


def test_a_follower_is_told_that_the_holder_has_died(stores, admin, schema):
    holder, reader = stores(), stores()
    write(holder, "a", holder.begin("a"), 0)
    told = threading.Event()
    stop = reader.watch_log("a", told.set)
    until(lambda: reader._line.watched._seen)
    told.clear()
    admin.execute(f"UPDATE {schema}.holders SET until = now() - interval '1 s'")
    assert told.wait(PATIENCE)
    stop()


HOLDER = """
    import sys
    from crewbus.stores import StoredEvent
    from crewbus_postgres import PostgresStore, _holders
    _holders.SURE = 1e-9
    store = PostgresStore(sys.argv[1], schema=sys.argv[2], lease=1e6)
    epoch = store.begin("a")
    store.append("a", epoch, StoredEvent("a", 0, None, 1.5, None, 0, "tests.Noted", 1, b"{}"))
    store.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_the_runs_of_a_killed_process_can_be_taken_before_its_lease_ends(stores, server, schema, admin):
    store, program = stores(), [sys.executable, "-c", textwrap.dedent(HOLDER), server, schema]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            until(lambda: admin.execute(f"SELECT live FROM {schema}.holders").fetchone() != (None,))
            for _ in range(3):
                assert store.info("a").alive
                with pytest.raises(crewbus.RunHeldError):
                    store.acquire("a")
        finally:
            process.kill()
    until(lambda: not store.info("a").alive)
    assert store.acquire("a") == 2


def test_a_process_whose_session_ends_connects_anew_and_keeps_its_runs(stores, admin):
    holder, other = stores(), stores()
    epoch = holder.begin("a")
    write(holder, "a", epoch, 0)
    until(lambda: holder._line.live is not None)
    before = holder._line.live
    told = threading.Event()
    stop = holder.watch_log("a", told.set)
    admin.execute("SELECT pg_terminate_backend(%s, 10000)", [holder._line._pid])
    until(lambda: holder._line.live not in (None, before))
    assert other.info("a").alive
    told.clear()
    other.post("a", "u", b"1")
    assert told.wait(PATIENCE)
    write(holder, "a", epoch, 1)
    stop()


def test_a_holder_is_told_at_once_that_another_took_its_run(stores):
    """Not when it renews its lease, which is days later."""
    holder, other = stores(lease=FOREVER), stores()
    write(holder, "a", holder.begin("a"), 0)
    until(lambda: holder._line.live is not None)
    lost = queue.SimpleQueue()
    stop = holder.on_lost(lambda *loss: lost.put(loss))
    other.revoke("a")
    other.acquire("a")
    assert lost.get(timeout=PATIENCE)[:2] == ("a", 1)
    stop()


def test_a_run_is_cancelled_from_elsewhere(stores):
    def bus():
        made = crewbus.Bus(entry_points=False)
        made.enable_recording(stores())
        return made

    async def work():
        async with here.run(id="a"):
            await here.aflush()
            await elsewhere.acancel("a", "enough")
            await asyncio.Event().wait()

    with bus() as here, bus() as elsewhere, pytest.raises(crewbus.RunCancelledError, match="enough"):
        asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_mail_is_asked_for_at_once(stores, admin, schema):
    store, other = stores(), stores()
    for root in "abc":
        write(store, root, store.begin(root), 0)
    for root, text in (("a", b"1"), ("a", b"2"), ("b", b"3"), ("c", b"4")):
        other.post(root, "u", text)
    admin.execute(f"DELETE FROM {schema}.messages WHERE data = %s", [b"4"])
    found = store.mail({"a": 0, "b": -1, "c": -1, "missing": -1, "\ud800": -1})
    assert {root: [message.data for message in messages] for root, messages in found.items()} == {
        "a": [b"2"],
        "b": [b"3"],
    }


# The server


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_statement_that_is_not_answered_fails(stores, by):
    store = stores(timeout=2.0)
    with pytest.raises(RecordingError), store._database.session() as session:
        if by == "client":
            session.rows("SET statement_timeout = 0")
        session.rows("SELECT pg_sleep(1000)")
    assert store.roots() == []


def test_tables_of_an_earlier_version_are_brought_up_to_date(stores, admin, schema, server):
    admin.execute(f"CREATE SCHEMA {schema}")
    admin.execute(_schema.MIGRATIONS[0].replace("$s", schema).encode())
    role = f"role_{schema}"
    admin.execute(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )
    url = f"{server}{'&' if '?' in server else '?'}options=-c%20role%3D{role}"
    limited = PostgresStore(url, schema=schema)
    with pytest.raises(RecordingError, match="--since 1"):
        limited.roots()
    admin.execute(_schema.schema_sql(schema, since=1).encode())
    assert limited.roots() == []
    limited.close()
    admin.execute(f"UPDATE {schema}.meta SET version = {_schema.VERSION + 1}")
    with pytest.raises(StoreVersionError):
        stores().roots()


def test_several_that_begin_at_once_bring_the_tables_up_to_date_together(stores, admin, schema):
    admin.execute(f"CREATE SCHEMA {schema}")
    admin.execute(_schema.MIGRATIONS[0].replace("$s", schema).encode())
    made, barrier, failures = [stores() for _ in range(4)], threading.Barrier(4), []

    def begin(store, root):
        barrier.wait(PATIENCE)
        try:
            write(store, root, store.begin(root), 0)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=begin, args=[store, str(i)]) for i, store in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    assert sorted(made[0].roots()) == ["0", "1", "2", "3"]


def test_a_change_before_the_first_look_at_a_log_is_told(stores):
    """Between a watcher's own look and the first one for it anything may have happened."""
    store, told = stores(listen="off"), []
    store.append("a", store.begin("a"), noted(0))
    store.flush(PATIENCE)
    watched = Watched()
    with store._database.reading() as session:
        watched.add(watched.mark(session, "a"), lambda: told.append(1))
        store.append("a", 1, noted(1))
        store.flush(PATIENCE)
        watched.look(session)
        assert len(told) == 1
        watched.look(session)
    assert len(told) == 1
