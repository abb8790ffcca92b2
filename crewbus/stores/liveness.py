"""Liveness: a holder is alive while its process holds an operating-system lock on a file that others can test.

The kernel releases the lock when the process ends, however it ends, so no process id has to be known. That holds
within one running system, which `host_id` identifies, across containers and pid namespaces that share the folder.
Between systems, and where files can't be locked, only a lease can show it.

The locks are those of ``flock``, which belong to the opened file: unlike those of ``fcntl``, they are not lost when
the process opens and closes the file elsewhere. A forked child would share them, so it closes what it inherits.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from weakref import finalize

from crewbus._util import reentrant_lock

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no file is ever locked, and leases alone decide
    fcntl = None

__all__ = ["HeldLock", "LockFiles", "host_id", "new_token"]

_TOKEN: Final = re.compile("[0-9a-f]{32}")
_ATTEMPTS: Final = 10
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@cache
def host_id() -> str:
    """Identify the running system: two processes with the same id see each other's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        node = uuid.getnode()
    made_up = node >> 40 & 1  # `uuid.getnode` sets this bit where it finds no network card
    return uuid.uuid4().hex if made_up else f"{socket.gethostname()}:{node:x}"


def new_token() -> str:
    """Make the name of a holder's lock file: 32 hexadecimal digits that no other holder has."""
    return uuid.uuid4().hex


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
    """A lock that this process holds on a file, until it releases it or ends."""

    def __init__(self, path: Path, descriptor: _Descriptor) -> None:
        self._path = path
        self._descriptor = descriptor
        finalize(self, descriptor.close).atexit = False  # the end of the process releases the lock

    @property
    def is_visible(self) -> bool:
        """Whether the file is still where others look for it."""
        number = self._descriptor.number
        return number is not None and _is_at(self._path, number)

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

    def hold(self, token: str) -> HeldLock | None:
        """Create a holder's file and lock it; None where that is impossible, as in a folder that can't be written."""
        path = self._path(token)
        if path is None or fcntl is None:
            return None
        for _ in range(_ATTEMPTS):  # `remove` in another process may come between the creation and the lock
            with _opening:
                try:
                    number = os.open(path, _FLAGS | os.O_RDWR | os.O_CREAT, 0o644)
                except OSError:
                    return None
                locked = _lock(number, exclusive=True)
                if locked and _is_at(path, number):
                    return HeldLock(path, _Descriptor(number))
                os.close(number)
        with suppress(OSError):
            path.unlink()  # this file system has no locks
        return None

    def is_abandoned(self, token: str) -> bool:
        """Whether a holder has ended: its file exists, and no process has it locked. False where that is unknown."""
        return self._try(token, remove=False)

    def remove(self, token: str) -> None:
        """Remove a holder's file if no process has it locked."""
        self._try(token, remove=True)

    def tokens(self) -> list[str]:
        """The tokens of the files that exist."""
        name = self._prefix.name
        try:
            entries = [path.name for path in self._prefix.parent.iterdir()]
        except OSError:
            return []
        found = (entry.removeprefix(name) for entry in entries if entry.startswith(name))
        return [token for token in found if _TOKEN.fullmatch(token)]

    def _path(self, token: str) -> Path | None:
        """The path of a holder's file; None for what is no token, since it may come from damaged or hostile data."""
        return self._prefix.with_name(self._prefix.name + token) if _TOKEN.fullmatch(token) else None

    def _try(self, token: str, *, remove: bool) -> bool:
        path = self._path(token)
        if path is None or fcntl is None:
            return False
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:
            return False
        try:
            free = _lock(descriptor, exclusive=remove)
            if free and remove and _is_at(path, descriptor):
                path.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return free


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
