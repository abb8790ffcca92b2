"""The core of the contract, behind PgBouncer in transaction mode."""

from __future__ import annotations

import psycopg
import pytest
from poolers import running_pooler
from postgres_helpers import LEASE, schema_for

from crewbus.testing import StoreContract
from crewbus.testing.store.leases import LeaseContract
from crewbus.testing.store.logs import LogContract
from crewbus.testing.store.mailbox import MailboxContract
from crewbus.testing.store.watching import WatchingContract
from crewbus.testing.store.work import WorkContract
from crewbus_postgres import PostgresStore

CORE = (LogContract, LeaseContract, MailboxContract, WatchingContract, WorkContract)


@pytest.fixture(scope="module")
def pooled(tcp_server):
    """The URL of a server by way of a pooler."""
    with running_pooler(tcp_server) as port:
        yield tcp_server.at(port)


class TestPostgresBehindPgBouncer(*CORE):
    """Not all of `StoreContract`: what is left out does not depend on how a statement reaches the server."""

    survives = True

    @pytest.fixture(autouse=True)
    def _server(self, pooled):
        self.url = pooled

    def open(self):
        return PostgresStore(self.url, schema=schema_for(self.path), lease=LEASE)

    def opener(self):
        arguments = f"{self.url!r}, schema={schema_for(self.path)!r}, lease={LEASE}"
        return f"from crewbus_postgres import PostgresStore\nstore = PostgresStore({arguments})"


def test_the_core_is_a_part_of_the_contract():
    assert set(CORE) < set(StoreContract.__mro__)


def test_the_pooler_shares_its_connections(pooled):
    """In transaction mode: two clients at a time have one session, and so a session's state is nobody's."""
    with psycopg.connect(pooled, autocommit=True) as one, psycopg.connect(pooled, autocommit=True) as other:
        pids = {client.execute("SELECT pg_backend_pid()").fetchone() for client in (one, other)}
    assert len(pids) == 1
