"""Raising exceptions that were kept while other code ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def reported_once(error: BaseException) -> Iterator[None]:
    """In a block that runs because of ``error``: that what failed then fails again, in the same words, is not raised.

    What else is raised in the block propagates.
    """
    try:
        yield
    except Exception as again:
        if type(again) is not type(error) or again.args != error.args:
            raise


def raise_first(errors: list[BaseException]) -> None:
    """Raise the first of ``errors``, if there is one, and empty the list.

    Collect exceptions in a list and raise them this way: a local variable that still refers to the exception would
    form a reference cycle with the traceback and the frame, and keep all locals alive until the next collection.
    """
    if errors:
        del errors[1:]
        raise errors.pop()


def call_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make all ``calls``, in order. The first exception that one raises is raised when all are made."""
    errors = list[BaseException]()
    for call in calls:
        try:
            call()
        except BaseException as error:
            errors.append(error)
    raise_first(errors)
