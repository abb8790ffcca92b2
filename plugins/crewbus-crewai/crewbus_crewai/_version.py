"""The versions of crewAI that are supported."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

from crewbus import PluginError

LOWEST: Final = (1, 15)
BEYOND: Final = (1, 16)
SUPPORTED: Final = ">=1.15,<1.16"
"""The same as setup.cfg says."""


def check_version() -> None:
    """Raise `crewbus.PluginError` unless a supported crewAI is installed. Imports nothing of it."""
    try:
        found = metadata.version("crewai")
    except metadata.PackageNotFoundError:
        raise PluginError(f"crewbus-crewai needs crewai{SUPPORTED}; none is installed") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not LOWEST <= (int(numbers[1]), int(numbers[2])) < BEYOND:
        raise PluginError(f"crewbus-crewai supports crewai{SUPPORTED}; found crewai {found}")
