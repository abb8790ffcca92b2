"""Entering a run on an event loop, which goes on while the store is asked."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from crewbus._util import in_worker
from crewbus.scopes.ports import AnyScope


async def enter(run: AnyScope) -> None:
    """Enter ``run`` as ``with`` does. If this is cancelled before it is entered, nothing has happened."""
    preparation = run.preparation() if run.state == "new" else None
    if preparation is not None:
        give_back = preparation.give_back
        await in_worker(preparation.take, lambda _: give_back())
    try:
        run.__enter__()
    except BaseException:
        if preparation is not None:
            await in_worker(preparation.give_back)
        raise
    if run.recorded:
        try:
            await run.host.steps.written(run)
        except BaseException as error:
            run.__exit__(type(error), error, None)
            raise


class Written:
    """Awaits the disk as an emission in ``run`` would; nothing happens if it is not awaited."""

    def __init__(self, run: AnyScope) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, Any, None]:
        return self._run.host.steps.written(self._run).__await__()  # type: ignore[no-any-return]
