"""JSON answers that every client can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

__all__ = ["dump", "json_response"]

_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dump(value: Any) -> bytes:
    """``value`` as JSON in ASCII. NaN and infinities, which JSON does not have, are null."""
    try:
        return _encode(value).encode()
    except ValueError:
        return _encode(_without_nan(value)).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def json_response(
    content: Any,
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """An answer with this content."""
    return Response(dump(content), status, dict(headers or {}), media_type)
