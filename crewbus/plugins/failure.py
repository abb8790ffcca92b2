"""A contained fault: what is reported when an observer, handler or callback raises."""

from __future__ import annotations

from typing import Any

import attrs

from crewbus.exceptions import text_of

__all__ = ["Failure"]


@attrs.frozen
class Failure:
    """An exception that the bus contained, and whose it was."""

    kind: str
    """"plugin", "handler" or "callback"."""
    name: str
    """The plugin's name, or the handler's or callback's module and qualified name."""
    error: BaseException
    hook: str | None = None
    """The hook that a plugin failed in."""
    distribution: str | None = None
    """Name and version of the plugin's distribution, if it has one."""
    envelope: Any = None
    """The event that was being handled, if there was one."""

    def __str__(self) -> str:
        where = f" in {self.hook}" if self.hook else ""
        origin = f" ({self.distribution})" if self.distribution else ""
        what = f" while handling {type(self.envelope.event).__name__} {self.envelope.id}" if self.envelope else ""
        return f"{self.kind} {self.name}{origin}{where} raised {type(self.error).__name__}{what}: {text_of(self.error)}"
