"""Context variables, held for as long as something is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def held(var: ContextVar[T], value: T) -> Iterator[None]:
    """Give ``var`` another value, until the ``with`` is left."""
    token = var.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that is thrown away may be closed in another context
            var.reset(token)
