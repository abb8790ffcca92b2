"""Plain values: what JSON, and so a record, preserves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

DEEPEST: Final = 100
"""How deep a recorded value may nest: half of what crewbus accepts."""
LONGEST_INT: Final = 14_000
"""How many bits a recorded integer may have."""


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON preserves ``value``."""
    if type(value) is dict or type(value) is list:
        inner = value.values() if type(value) is dict else value
        keys = value if type(value) is dict else ()
        return (
            depth < DEEPEST
            and all(type(key) is str and _is_text(key) for key in keys)
            and all(is_plain(one, depth + 1) for one in inner)
        )
    if type(value) is str:
        return _is_text(value)
    if type(value) is int:
        return value.bit_length() <= LONGEST_INT
    return value is None or type(value) is bool or (type(value) is float and math.isfinite(value))


def _is_text(value: str) -> bool:
    """Whether it has no lone surrogates, as in file names and truncated answers."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def described(value: Any) -> str:
    """The ``repr`` of a value, as text that can be written."""
    try:
        return repr(value).encode(errors="backslashreplace").decode()
    except Exception:  # Python also refuses the decimal digits of huge integers
        return hex(value) if type(value) is int else f"<{type(value).__qualname__}>"


def as_plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """``value`` as a plain value: what JSON cannot represent, a cycle included, becomes its ``repr``.

    ``around`` are the ids of the containers that it is in.
    """
    if isinstance(value, Mapping | list | tuple | AbstractSet) and (id(value) in around or len(around) >= DEEPEST - 1):
        return described(value)
    inside = (*around, id(value))
    if isinstance(value, Mapping):
        return {_key(key): as_plain(one, inside) for key, one in list(value.items())}
    if isinstance(value, list | tuple | AbstractSet):
        return [as_plain(one, inside) for one in list(value)]
    return value if is_plain(value) else described(value)


def _key(key: Any) -> str:
    return key if type(key) is str and _is_text(key) else described(key)
