"""Writers of a journal: how they are named, and how one sees that another is dead."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from crewbus.stores.liveness import LockFiles, Presence, Sign, clock, host_id, new_token

__all__ = ["Writers"]

_NAME: Final = re.compile(r"process \d+ on .* \((\S+) (\w+)\)", re.DOTALL)


class Writers:
    """The writers of a journal, and one of this process: ``me``, a name that no other writer has.

    ``prefix`` is the path that the names of their lock files begin with, and ``lease`` the seconds after which a writer
    that does not touch its file is given up.
    """

    def __init__(self, prefix: Path, lease: float) -> None:
        self._token = new_token()
        self.me: Final = f"process {os.getpid()} on {socket.gethostname()} ({host_id()} {self._token})"
        self._files = LockFiles(prefix)
        self._presence = Presence(self._files, self._token, lease)
        self._seen = clock()

    def hold(self) -> None:
        """Show others that this writer is alive, if that is possible."""
        self._presence.show()

    def saw_journal(self) -> None:
        """Note that this writer reads the journal now, in its turn: what it holds by that, nobody has taken."""
        self._seen = clock()

    @property
    def lasts(self) -> bool:
        """Whether nobody can have taken this writer's logs since it last read the journal."""
        return not self._presence.has_file or self._presence.lasts(self._seen)

    def release(self) -> None:
        """Release this writer's lock: it holds no log any more."""
        self._presence.end()

    def is_dead(self, name: str) -> bool:
        """Whether a writer's process has ended; False where that is unknown, as on another host."""
        return self._sign(name) is Sign.DEAD

    def is_stopped(self, name: str) -> bool:
        """Whether a writer's process is there, and its lease has ended: it may come back."""
        return self._sign(name) is Sign.STOPPED

    def _sign(self, name: str) -> Sign:
        token = _token(name)
        return Sign.UNKNOWN if token is None or name == self.me else self._files.sign(token)

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
