"""Streaming a function: what `Bus.stream` returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from crewbus import durability, streams
from crewbus._util import name_of
from crewbus.exceptions import RunHeldError, RunIdInUseError

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.bus.owned_work import OwnedWork
    from crewbus.bus.results import RunResults
    from crewbus.bus.watching import Watching
    from crewbus.durability import Gate
    from crewbus.scopes import Host, Preparation, Run
    from crewbus.streams import FrameSource, OwnedStream, StreamOptions


class Streaming:
    """Makes the streams that own their runs."""

    def __init__(
        self,
        host: Host,
        new_run: Callable[..., Run],
        resumed_run: Callable[..., Run],
        gate: Gate,
        live: LiveRuns,
        work: OwnedWork,
        watching: Watching,
        results: RunResults,
    ) -> None:
        self._host = host
        self._new_run = new_run
        self._resumed_run = resumed_run
        self._gate = gate
        self._live = live
        self._work = work
        self._watching = watching
        self._results = results

    def stream(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: StreamOptions | None,
    ) -> OwnedStream[Any]:
        """See `Bus.stream`."""
        chosen = streams.StreamOptions() if options is None else streams.checked_options(options)
        name = chosen.name if chosen.name is not None or not callable(function) else name_of(function)
        existing = None
        if chosen.attach:
            digest = durability.digest_of(args, kwargs)
            chosen = attrs.evolve(chosen, tags={**(chosen.tags or {}), durability.DIGEST_TAG: digest})
        if chosen.resume is not None:
            run = self._resumed_run(chosen.resume, chosen.at, durability=chosen.durability, claimed=chosen.claimed)
        else:
            run = self._new_run(name, **streams.run_arguments(chosen))
        if chosen.attach:
            asked, is_planted = run, self._gate.records_root(run) and self._is_outside()
            if is_planted:
                run = self._resumed_run(chosen.id, durability=chosen.durability)
            existing = _Existing(run, asked, is_planted, function, self._gate, self._watching, self._results)
        give_up = functools.partial(self._live.give_up, run)
        return self._work.stream(run, chosen, function, args, kwargs, give_up, existing)

    def _is_outside(self) -> bool:
        """Whether a run that starts here is a root."""
        here = self._host.current_scope()
        return here is None or here.run is None or here.run.ended


class _Existing:
    """The run that has the id of a new one already, if there is one. See `crewbus.streams.Existing`."""

    def __init__(
        self,
        run: Run,
        asked: Run,
        is_planted: bool,
        function: Callable[..., Any],
        gate: Gate,
        watching: Watching,
        results: RunResults,
    ) -> None:
        self._run = run
        self._asked = asked
        """The run as it is new."""
        self._is_planted = is_planted
        """Whether the store is given that for another process to find, before ``run`` takes it."""
        self._function = function
        self._gate = gate
        self._watching = watching
        self._results = results
        self._taken: Preparation | None = None

    def claim(self) -> bool:
        if not self._is_planted:
            return True
        try:
            self._gate.opened().recorder.plant(self._asked)
            taken = self._run.preparation()
            if taken is not None:
                taken.take()
            self._taken = taken
        except (RunIdInUseError, RunHeldError):
            return False
        return True

    def give_back(self, claimed: bool) -> None:
        if claimed and self._taken is not None:
            self._taken.give_back()

    def follow(self) -> FrameSource:
        found = self._watching.follower_once_started(self._run.id, streams.Cursor.parse("start"))
        durability.require_same(self._gate.opened().recorder.record_of(self._run.id), self._asked)
        return found

    def result(self, timeout: float | None) -> Any:
        return self._results.wait(self._run.id, timeout, durability.return_annotation(self._function))

    async def aresult(self) -> Any:
        return await self._results.wait_async(self._run.id, None, durability.return_annotation(self._function))
