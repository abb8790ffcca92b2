"""Where a plugin comes from."""

from __future__ import annotations

from typing import Final, NamedTuple


class Origin(NamedTuple):
    """Where a plugin comes from."""

    distribution: str | None = None
    version: str | None = None
    """The distribution's, or the module's ``__version__``."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.distribution, self.version) if part)


UNKNOWN: Final = Origin()
