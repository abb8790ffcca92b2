"""What is said of a plugin, whether it is loaded or not."""

from __future__ import annotations

import attrs

__all__ = ["PluginInfo"]


@attrs.frozen
class PluginInfo:
    """The status of a plugin."""

    name: str
    status: str
    """"loaded", "blocked" or "broken"."""
    distribution: str | None = None
    version: str | None = None
    """The distribution's version; without a distribution, the module's ``__version__``."""
    hooks: tuple[str, ...] = ()
    reason: str | None = None
    """Why it is blocked or broken."""
