"""The plugin ``redactor``: hides secrets ahead of all who would see them: streams, handlers, observers, the record."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from operator import is_
from typing import Any

import attrs

from crewbus import PluginError, hookimpl

HIDDEN = "[redacted]"
OWN = r"(?:(?<![^\W_]{0})|(?<=\\[nrt]{0})|(?<=\\u00..{0})|(?<=%[\dA-F].{0}))"  # at a word's beginning; in JSON, in URLs
SECRETS = (
    rf"(?:sk-{OWN.format('sk-')}|gh[opsur]_|github_pat_|glpat-|hf_|xox[abeprs]-|AKIA|AIza)[\w-]{{16,}}",  # API keys
    rf"eyJ(?<![_-]eyJ){OWN.format('eyJ')}[\w-]+\.eyJ[\w-]+\.[\w-]+|[Bb](?i:earer)\s+[\w.~+/-]+=*",  # tokens
    r"(?<=://)[^\s/:]*:[^\s/]+(?=@)",  # the user and password of a URL
)


class Redactor:
    """Hides what matches one of `SECRETS`, or of ``patterns``: by default those that CREWBUS_REDACT lists."""

    def __init__(self, patterns: Iterable[str] | None = None) -> None:
        own = os.environ.get("CREWBUS_REDACT", "").split() if patterns is None else patterns
        try:
            self._patterns = [re.compile(pattern) for pattern in (*SECRETS, *own)]
        except re.error as error:
            raise PluginError(f"{error.pattern!r} is no regular expression: {error}") from error

    @hookimpl
    def crewbus_redact(self, event: Any) -> Any:
        clean = self._clean(event)
        return None if clean is event else clean

    def _clean(self, value: Any) -> Any:
        """``value`` without secrets: itself where it has none, else a copy."""
        if isinstance(value, str):
            for pattern in self._patterns:
                value = pattern.sub(HIDDEN, value) if pattern.search(value) else value
            return value
        if isinstance(value, list | tuple | set | frozenset):
            items = [self._clean(item) for item in value]
            return value if all(map(is_, items, value)) else getattr(value, "_make", type(value))(items)
        if isinstance(value, Mapping):
            pairs = list(value.items())
            return value if (clean := self._clean(pairs)) is pairs else dict(clean)
        kind = type(value)
        names = attrs.fields_dict(kind) if attrs.has(kind) else getattr(kind, "__dataclass_fields__", ())
        parts = {name: getattr(value, name) for name in names if hasattr(value, name)}
        changed = {name: clean for name, part in parts.items() if (clean := self._clean(part)) is not part}
        other = copy.copy(value) if changed else value
        for name, part in changed.items():
            object.__setattr__(other, name, part)  # frozen or not, and whatever its constructor would do
        return other
