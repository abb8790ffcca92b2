"""URLs in messages."""

from __future__ import annotations

import re
from typing import Final

_SECRETS: Final = re.compile(r"(?<=://)[^/?#]*(?=@)|(?<=[?&]password=)[^&#]*", re.IGNORECASE)


def without_secrets(url: str) -> str:
    """``url`` as messages may show it: with ``***`` in place of the user and the password."""
    return _SECRETS.sub("***", url)
