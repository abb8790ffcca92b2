"""The contract of stores behind a network: faults of a real server, and of a proxy in front of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from postgres_helpers import LEASE, schema_for
from postgres_servers import own_folder

from crewbus.testing import Cut, NetworkContract, TcpProxy
from crewbus_postgres import PostgresStore

ANSWER = 5.0
BOUND = 100_000
ROOM = 4_000_000
"""Bytes of the disk that becomes full."""
MANY = (5.0, 8.0, 13.0, 20.0, 14.0)
"""Seconds between the restarts of a minute."""


class TestPostgresBehindANetwork(NetworkContract):
    lease = LEASE

    @pytest.fixture(autouse=True)
    def _server(self, tcp_server, _directory):
        self.server = tcp_server
        with ExitStack() as self.stack, TcpProxy(("127.0.0.1", tcp_server.port)) as self.proxy:
            yield
            self.heal()
            self.close_all()

    @property
    def url(self):
        return self.server.at(self.proxy.port)

    def open(self):
        return PostgresStore(self.url, schema=schema_for(self.path), lease=LEASE, timeout=ANSWER)

    def opener(self):
        arguments = f"{self.url!r}, schema={schema_for(self.path)!r}, lease={LEASE}, timeout={ANSWER}"
        return f"from crewbus_postgres import PostgresStore\nstore = PostgresStore({arguments})"

    def open_limited(self):
        store = PostgresStore(self.url, schema=schema_for(self.path), lease=LEASE, patience=0.5, backlog=BOUND)
        return store, BOUND

    def cut(self, how, answers=0):
        if how is not Cut.PAUSE:
            return self.proxy.cut(how, answers)
        self.server.freeze()
        return threading.Event()

    def heal(self):
        self.server.proceed()
        self.proxy.heal()

    def restart(self):
        self.server.restart()

    @pytest.mark.slow
    @pytest.mark.minutes
    def test_restarts_for_a_minute(self):
        self.check_restarts(MANY)

    @contextmanager
    def crowd(self):
        """Take every connection that the server allows."""
        self.server.wait_until_alone()
        with ExitStack() as stack:
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                while True:
                    stack.enter_context(psycopg.connect(self.server.url))
            yield

    @contextmanager
    def fill_disk(self):
        """Move the events to a small disk, and fill that up."""
        schema, disk = schema_for(self.path), self.stack.enter_context(small_disk())
        shutil.chown(disk, self.server.user)
        self.server.execute(f"CREATE TABLESPACE {schema} LOCATION '{disk}'")
        self.stack.callback(self.server.execute, f"DROP TABLESPACE {schema}")
        self.stack.callback(self.server.execute, f"DROP SCHEMA {schema} CASCADE")
        self.server.execute(f"ALTER TABLE {schema}.events SET TABLESPACE {schema}")
        with (disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(bytes(1 << 16))
                ballast.flush()
        yield
        (disk / "ballast").unlink()

    @contextmanager
    def fail_over(self):
        """Have a standby take over that was not connected lately."""
        standby = self.server.standby(self.stack.enter_context(own_folder()))
        yield
        self.server.stop()
        self.stack.callback(self.server.start)
        standby.start()
        self.stack.callback(standby.stop)
        standby.promote()
        self.proxy.target = ("127.0.0.1", standby.port)
        self.proxy.cut(Cut.RESET)
        self.proxy.heal()


@contextmanager
def small_disk():
    """A file system of a few megabytes; skips the test where none may be mounted."""
    with own_folder() as folder:
        disk = folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "crewbus", str(disk)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("no file system may be mounted here")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)
