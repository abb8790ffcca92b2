"""PgBouncer in transaction mode, from Debian's package."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager

import psycopg
import pytest
from postgres_servers import free_port, own_folder

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 6
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""
PATIENCE = 60.0


@contextmanager
def running_pooler(server):
    """The port of a pooler before a server; skips the test where there is none."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/bin")
    if program is None:
        pytest.skip("needs PgBouncer, as from Debian's package")
    with own_folder() as folder:
        port = free_port()
        settings = folder / "pgbouncer.ini"
        settings.write_text(SETTINGS.format(server=server.port, port=port, folder=folder))
        if server.user is not None:
            shutil.chown(folder, server.user)
        with (folder / "out.log").open("wb") as log:
            process = subprocess.Popen([program, str(settings)], user=server.user, stdout=log, stderr=log)
        try:
            wait_until_it_answers(server.at(port), process)
            yield port
        finally:
            process.kill()
            process.wait()


def wait_until_it_answers(url, process):
    last = None
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, f"PgBouncer has ended with {process.returncode}"
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            last = error
            time.sleep(0.02)
        else:
            return
    raise AssertionError(last)
