"""The versions of litellm that are supported."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

from crewbus import PluginError

LOWEST: Final = (1, 106)
BEYOND: Final = (1, 110)
SUPPORTED: Final = ">=1.106,<1.110"
"""The same as setup.cfg says."""


def check_version() -> None:
    """Raise `crewbus.PluginError` unless a supported litellm is installed. Imports nothing of it."""
    try:
        found = metadata.version("litellm")
    except metadata.PackageNotFoundError:
        raise PluginError(f"crewbus-litellm needs litellm{SUPPORTED}; none is installed") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not LOWEST <= (int(numbers[1]), int(numbers[2])) < BEYOND:
        raise PluginError(f"crewbus-litellm supports litellm{SUPPORTED}; found litellm {found}")
