"""The markers of hook specifications and hook implementations."""

from __future__ import annotations

from typing import Final

import pluggy

PROJECT: Final = "crewbus"

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
