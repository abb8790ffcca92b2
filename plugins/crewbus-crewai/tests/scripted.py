"""A model without a server: it returns its scripted answers and counts its calls."""

from __future__ import annotations

from typing import Any

from crewai import BaseLLM
from pydantic import PrivateAttr


class Scripted(BaseLLM):
    """Answers with the next line of its script; an exception there is raised."""

    model: str = "scripted"
    _script: list[Any] = PrivateAttr(default_factory=list)
    _asked: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, *script: Any) -> Scripted:
        """One with this script."""
        made = cls(model="scripted")
        made._script = list(script)
        return made

    @property
    def asked(self) -> list[str]:
        """The last message of each request."""
        return self._asked

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked.append(messages if isinstance(messages, str) else messages[-1]["content"])
        said = self._script.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(messages)

    def supports_function_calling(self) -> bool:
        return False
