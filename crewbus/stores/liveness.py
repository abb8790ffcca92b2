"""Liveness: whether the holder of a log is alive, by one rule for all stores on files.

A holder keeps an operating-system lock on a file of its own beside the data, and a thread touches that file every third
of a lease. Processes of one running system, which `host_id` identifies, see both, across containers and pid namespaces
that share the folder: a holder is alive while its file is locked and was touched within its lease. The kernel releases
the lock when the process ends, however it ends, so a dead holder is known at once, without its process id; one that is
stopped is given up after a lease; and no other program keeps a live one from touching its file, as one that locks the
database keeps it from renewing a lease there. Between systems, and where files can't be locked, a lease in the data is
all there is.

Touching a file sets its modification time to the end of the lease by the system's monotonic clock, which nobody sets.
The locks are those of ``flock``, which belong to the opened file: unlike those of ``fcntl``, they are not lost when
the process opens and closes the file elsewhere. A forked child would share them, so it closes what it inherits.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
import time
import uuid
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final
from weakref import finalize, ref

from crewbus._util import reentrant_lock, start_daemon

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no file is ever locked, and leases alone decide
    fcntl = None

__all__ = ["CERTAIN", "HeldLock", "LockFiles", "Presence", "Sign", "clock", "host_id", "new_token"]

CERTAIN: Final = 2 / 3
"""The part of a lease within which its holder relies on it: the clocks of processes and hosts differ."""

_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_TOKEN: Final = re.compile("[0-9a-f]{32}")
_ATTEMPTS: Final = 10
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LONGEST: Final = 1e9
"""The longest lease in seconds that is written to a file: file systems keep times up to 2038 at least."""
_FIRST_TIME_NAMESPACE: Final = "time:[4026531834]"


def clock() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the system sleeps where there is one."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


@cache
def host_id() -> str:
    """Identify the running system: two processes with the same id see each other's locks, and have the same clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip() + _time_namespace()
    except (OSError, ValueError):
        node = uuid.getnode()
    made_up = node >> 40 & 1  # `uuid.getnode` sets this bit where it finds no network card
    return uuid.uuid4().hex if made_up else f"{socket.gethostname()}:{node:x}"


def _time_namespace() -> str:
    """The time namespace of this process, which may have another monotonic clock; empty for that of the system."""
    try:
        found = str(Path("/proc/self/ns/time").readlink())
    except OSError:
        return ""
    return "" if found == _FIRST_TIME_NAMESPACE else f"-{found}"


def new_token() -> str:
    """Make the name of a holder's lock file: 32 hexadecimal digits that no other holder has."""
    return uuid.uuid4().hex


class Sign(Enum):
    """What a holder's file shows of it."""

    ALIVE = "its file is locked, and was touched within its lease"
    STOPPED = "its file is locked, but was not touched within its lease"
    DEAD = "no process has its file locked"
    UNKNOWN = "it has no file that can be seen here"


class _Descriptor:
    """An open, locked file. It takes no lock, since a finaliser closes it."""

    def __init__(self, number: int) -> None:
        self.number: int | None = number
        _held.add(self)

    def close(self) -> None:
        """Close it, once."""
        number, self.number = self.number, None
        _held.discard(self)
        if number is not None:
            with suppress(OSError):
                os.close(number)


_held: Final[set[_Descriptor]] = set()
_opening: Final = reentrant_lock()
"""Held while a file is opened and locked, and during a fork: the child knows all that it inherits."""


def _close_inherited() -> None:
    # Closing a copy leaves the parent's lock in place; keeping it would make the lock outlive the parent.
    for descriptor in list(_held):
        descriptor.close()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_close_inherited)


class HeldLock:
    """A lock that this process holds on a file, until it releases it or ends. ``lease`` is in seconds."""

    def __init__(self, path: Path, descriptor: _Descriptor, lease: float) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lease = lease
        finalize(self, descriptor.close).atexit = False  # the end of the process releases the lock

    @property
    def is_visible(self) -> bool:
        """Whether the file is still where others look for it."""
        number = self._descriptor.number
        return number is not None and _is_at(self._path, number)

    def touch(self) -> bool:
        """Have others see that this process is alive, for a lease from now; whether the file shows it."""
        number = self._descriptor.number
        return number is not None and _touch(number, self._lease)

    def release(self, *, keep_file: bool = False) -> None:
        """Release the lock and remove its file. With ``keep_file`` others see the file unlocked: its holder is dead."""
        if not keep_file and self.is_visible:
            with suppress(OSError):
                self._path.unlink()
        self._descriptor.close()


class LockFiles:
    """The lock files of all holders that share a store: ``prefix`` and a token of `new_token` make the path of each.

    Put ``prefix`` beside the data, so that processes in other containers find the files too.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix

    def hold(self, token: str, lease: float) -> HeldLock | None:
        """Create, lock and touch a holder's file; None where that is impossible, as in a folder that is read-only."""
        if fcntl is None or not _TOKEN.fullmatch(token):
            return None
        path = self._path(token)
        for _ in range(_ATTEMPTS):  # `remove` in another process may come between the creation and the lock
            with _opening:
                try:
                    number = os.open(path, _FLAGS | os.O_RDWR | os.O_CREAT, 0o644)
                except OSError:
                    return None
                locked = _lock(number, exclusive=True)
                if locked and _is_at(path, number) and _touch(number, lease):
                    return HeldLock(path, _Descriptor(number), lease)
                os.close(number)
        with suppress(OSError):
            path.unlink()  # this file system has no locks, or does not keep the times that it is given
        return None

    def sign(self, token: str) -> Sign:
        """What the file of a holder on this system shows."""
        descriptor = self._open(token)
        if descriptor is None:
            return Sign.UNKNOWN
        try:
            now, found = time.monotonic_ns(), os.fstat(descriptor)  # in this order: this process may be stopped between
            if not stat.S_ISREG(found.st_mode):
                return Sign.UNKNOWN
            if _lock(descriptor, exclusive=False):
                return Sign.DEAD
            return Sign.ALIVE if found.st_mtime_ns > now else Sign.STOPPED
        except OSError:
            return Sign.UNKNOWN
        finally:
            os.close(descriptor)

    def remove(self, token: str) -> None:
        """Remove a holder's file if no process has it locked."""
        descriptor = self._open(token)
        if descriptor is None:
            return
        try:
            if _lock(descriptor, exclusive=True) and _is_at(self._path(token), descriptor):
                with suppress(OSError):
                    self._path(token).unlink()
        finally:
            os.close(descriptor)

    def tokens(self) -> list[str]:
        """The tokens of the files that exist."""
        name = self._prefix.name
        try:
            entries = [path.name for path in self._prefix.parent.iterdir()]
        except OSError:
            return []
        found = (entry.removeprefix(name) for entry in entries if entry.startswith(name))
        return [token for token in found if _TOKEN.fullmatch(token)]

    def _path(self, token: str) -> Path:
        return self._prefix.with_name(self._prefix.name + token)

    def _open(self, token: str) -> int | None:
        """Open a holder's file; None for what is no token, since it may come from damaged or hostile data."""
        if fcntl is None or not _TOKEN.fullmatch(token):
            return None
        try:
            return os.open(self._path(token), _FLAGS)
        except OSError:
            return None


class Presence:
    """This process as the holder ``token``: its lock file while it holds logs, and what it knows of its own lease.

    ``lease`` is the length of the lease in seconds.
    """

    def __init__(self, files: LockFiles, token: str, lease: float) -> None:
        self._files = files
        self._token = token
        self._lease = lease
        self._lock = reentrant_lock()
        self._held: HeldLock | None = None
        self._renewals: tuple[float, float] | None = None
        """Since when the lease was renewed without a gap, and when last; one attribute, so that both fit together."""
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    @property
    def has_file(self) -> bool:
        """Whether others can see this holder's file."""
        return self._held is not None

    def show(self) -> bool:
        """Touch the file, which is created and locked if it is not there; returns whether it was.

        From then on a thread does this every third of a lease.
        """
        with self._lock:
            if self._ended.is_set():
                return False
            held, at, made = self._held, clock(), False
            if held is None or not held.is_visible or not held.touch():
                self._held = held = self._hold()
                made = held is not None
            if held is not None:
                self.renewed(at)
            return made

    def renewed(self, at: float) -> None:
        """Note that the lease lasts from a time of `clock` on, for all who ask: that it was renewed in the data."""
        with self._lock:
            if self._renewals is None:
                self._renewals = -float("inf"), at
                return
            since, last = self._renewals
            self._renewals = (at if at - last >= CERTAIN * self._lease else since), max(at, last)

    def lasts(self, since: float) -> bool:
        """Whether this process certainly still holds what it held at a time of `clock`: there was no gap since then."""
        renewals = self._renewals
        if renewals is None:
            return False
        begun, last = renewals
        return begun <= since and clock() - last < CERTAIN * self._lease

    def end(self, *, keep_file: bool = False) -> None:
        """Release the lock and remove the file, for good. With ``keep_file`` others see that this holder is dead."""
        with self._lock:
            held, thread = self._held, self._thread
            self._held = self._thread = None
            self._ended.set()
        if held is not None:
            held.release(keep_file=keep_file)
        if thread is not None:
            thread.join()

    def _hold(self) -> HeldLock | None:
        held = self._files.hold(self._token, self._lease)
        if held is not None and self._thread is None:
            try:
                self._thread = start_daemon("crewbus liveness", _keep_showing, ref(self), self._ended, self._lease / 3)
            except RuntimeError:  # the interpreter is exiting, or there are too many threads
                held.release()
                return None
        return held


def _keep_showing(presence: ref[Presence], ended: threading.Event, pause: float) -> None:
    while not ended.wait(min(pause, threading.TIMEOUT_MAX)):
        present = presence()
        if present is None:
            return
        present.show()
        del present


def _touch(descriptor: int, lease: float) -> bool:
    """Set the modification time to the end of a lease that begins now; whether the file system keeps it."""
    length = min(lease, _LONGEST)
    ends = time.monotonic_ns() + int(length * 1e9)
    try:
        os.utime(descriptor, ns=(time.time_ns(), ends))
        return abs(os.fstat(descriptor).st_mtime_ns - ends) <= length * 1e9 * (1 - CERTAIN) / 2
    except OSError:
        return False


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    """Lock an open file without waiting; False if another process has it locked, or it can't be locked."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
