"""Forks: which process something was made in."""

from __future__ import annotations

from typing import Final


class Generation:
    """Counts the forks that led to this process: what was made before the last belongs to the parent."""

    number = 0

    def advance(self) -> None:
        """Be in a forked child."""
        self.number += 1


generation: Final = Generation()
