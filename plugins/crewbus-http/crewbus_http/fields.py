"""What a request says: the fields of its JSON body and of its query, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Fields", "Query", "read_body"]

LONGEST_TEXT = 4096


async def read_body(request: Request, known: Iterable[str]) -> Fields:
    """The fields of a JSON object, which has none but the ``known`` ones. Raises `Problem`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem("unsupported-media-type")
    try:
        body = json.loads(await request.body(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Problem("malformed", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Problem("invalid", "the body is a JSON object", pointer="")
    fields = Fields(body)
    for name in body.keys() - set(known):
        fields.refuse(name[:100], "there is no such field")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


class Fields:
    """The fields of a body. Each method raises `Problem` for what does not fit."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def refuse(self, name: str, detail: str) -> NoReturn:
        """Raise `Problem` for a field."""
        raise Problem("invalid", detail, pointer="/" + name.replace("~", "~0").replace("/", "~1"))

    def value(self, name: str) -> Any:
        """The field as it is; None if it is not there."""
        return self._values.get(name)

    def text(self, name: str, *, required: bool = False) -> str | None:
        """A text of reasonable length."""
        value = self._values.get(name)
        if value is None and not required:
            return None
        if not is_text(value):
            self.refuse(name, f"a text of 1 to {LONGEST_TEXT} characters is required")
        return str(value)

    def number(self, name: str, default: float, most: float = 1e9) -> float:
        """A number from 0."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            self.refuse(name, f"a number from 0 to {most:.0f} is required")
        return float(value)

    def count(self, name: str) -> int | None:
        """A whole number from 1."""
        value = self._values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31):
            self.refuse(name, "a whole number from 1 is required")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object whose names are texts; empty if it is not there."""
        value = self._values.get(name)
        if value is not None and not (isinstance(value, dict) and all(map(_is_sound, value))):
            self.refuse(name, "an object is required")
        return value or {}

    def texts(self, name: str) -> dict[str, str]:
        """An object from texts to texts."""
        value = self.mapping(name)
        if not all(is_text(one) and is_text(key) for key, one in value.items()):
            self.refuse(name, "an object whose values are texts is required")
        return value


def is_text(value: Any) -> bool:
    """Whether it is a text that every store can hold, of reasonable length."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and _is_sound(value)


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return "\0" not in text


class Query:
    """The query of a request. Each method raises `Problem` for what does not fit."""

    def __init__(self, request: Request) -> None:
        self._params = request.query_params

    def text(self, name: str) -> str | None:
        """A text; None if it is not there."""
        value = self._params.get(name)
        if value is not None and not is_text(value):
            self._refuse(name, "a text is required")
        return value

    def texts(self, name: str) -> list[str]:
        """All texts of that name."""
        values = self._params.getlist(name)
        if not all(map(is_text, values)):
            self._refuse(name, "a text is required")
        return values

    def number(self, name: str, default: float, most: float) -> float:
        """A number from 0 to ``most``."""
        try:
            value = float(self._params.get(name, default))
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:  # neither is NaN
            self._refuse(name, f"a number from 0 to {most:.0f} is required")
        return value

    def count(self, name: str, default: int, most: int) -> int:
        """A whole number from 1 to ``most``."""
        text = self._params.get(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
            self._refuse(name, f"a whole number from 1 to {most} is required")
        return int(text)

    def _refuse(self, name: str, detail: str) -> NoReturn:
        raise Problem("invalid", detail, parameter=name)
