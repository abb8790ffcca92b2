"""Process forks: distinguishes objects of this process from those inherited from its parent."""

from __future__ import annotations

from typing import Final


class Generation:
    """Counts the forks that led to this process. An object with a lower number belongs to the parent."""

    number = 0

    def advance(self) -> None:
        """Called in a forked child."""
        self.number += 1


generation: Final = Generation()
