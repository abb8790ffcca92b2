"""The versions of crewAI that are supported."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

from crewbus import PluginError

LOWEST: Final = (1, 15, 23)
"""The first that wraps the calls of each class of models in one place, where we lead them."""
BEYOND: Final = (1, 16)
SUPPORTED: Final = ">=1.15.23,<1.16"
"""The same as setup.cfg says."""
HINT: Final = f"pip install -U 'crewai{SUPPORTED}'"
"""What to do where another is installed."""


def not_known(error: Exception) -> PluginError:
    """What to raise where crewAI is not as it is known, as ``error`` says."""
    reason = f"{type(error).__name__}: {error}"
    return PluginError(f"crewAI is not as crewbus-crewai knows it: {reason}: pip install -U crewbus-crewai, and {HINT}")


def check_version() -> None:
    """Raise `crewbus.PluginError` unless a supported crewAI is installed. Imports nothing of it."""
    try:
        found = metadata.version("crewai")
    except metadata.PackageNotFoundError:
        raise PluginError(f"crewbus-crewai needs crewai{SUPPORTED}; none is installed: {HINT}") from None
    numbers = re.match(r"(\d+)\.(\d+)\.?(\d*)", found)
    if numbers is None or not LOWEST <= tuple(int(number or 0) for number in numbers.groups()) < BEYOND:
        raise PluginError(f"crewbus-crewai supports crewai{SUPPORTED}; found crewai {found}: {HINT}")
