"""Writers of a journal: how they are named, and how one sees that another is dead."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from crewbus.stores.liveness import HeldLock, LockFiles, host_id, new_token

__all__ = ["Writers"]

_NAME: Final = re.compile(r"process \d+ on .* \((\S+) (\w+)\)", re.DOTALL)


class Writers:
    """The writers of a journal, and one of this process: ``me``, a name that no other writer has.

    ``prefix`` is the path that the names of their lock files begin with.
    """

    def __init__(self, prefix: Path) -> None:
        self._token = new_token()
        self.me: Final = f"process {os.getpid()} on {socket.gethostname()} ({host_id()} {self._token})"
        self._files = LockFiles(prefix)
        self._lock: HeldLock | None = None

    def hold(self) -> None:
        """Hold this writer's lock, from which others see that it is alive, if that is possible."""
        if self._lock is None or not self._lock.is_visible:
            self._lock = self._files.hold(self._token)

    def release(self) -> None:
        """Release this writer's lock: it holds no log any more."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def is_dead(self, name: str) -> bool:
        """Whether a writer's process has ended; False where that is unknown, as on another host."""
        token = _token(name)
        return token is not None and name != self.me and self._files.is_abandoned(token)

    def dead(self, names: Iterable[str]) -> Iterator[str]:
        """Those of these writers that are dead and whose lock files are still there."""
        there = {*self._files.tokens()}
        return (name for name in names if _token(name) in there and self.is_dead(name))

    def forget(self, name: str) -> None:
        """Remove the lock file of a dead writer that holds no log."""
        if (token := _token(name)) is not None:
            self._files.remove(token)


def _token(name: str) -> str | None:
    """The name of a writer's lock file; None for a writer on another host."""
    named = _NAME.fullmatch(name)
    return named[2] if named is not None and named[1] == host_id() else None
