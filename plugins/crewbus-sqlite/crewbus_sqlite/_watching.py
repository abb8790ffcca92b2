"""Watching: sees that a process has committed something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from crewbus_sqlite._database import Database

PERIOD: Final = 0.03
"""Seconds between two looks at the file system."""
SETTLING: Final = 0.1
"""Seconds after a change for which each look asks the database: a second change may have the same time and size."""
LONGEST: Final = 1.0
"""Seconds after which a look asks the database, whatever the file system says."""


class Changes:
    """Asks the file system for changes, and the database only when there may be one."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._files: object = None
        self._version: int | None = None
        self._changed = self._asked = -LONGEST

    def look(self) -> bool:
        """Whether there was a commit since the last look."""
        now, files = self._clock(), self._database.files()
        if files != self._files:
            self._files, self._changed = files, now
        elif now - self._changed > SETTLING and now - self._asked < LONGEST:
            return False
        self._asked = now
        before, self._version = self._version, self._database.version()
        return self._version != before
