"""Redelivery: a record is delivered again to handlers and observers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from crewbus.events import Envelope, RunStarted
from crewbus.scopes import Deferring, Host, Run

if TYPE_CHECKING:
    from crewbus.dispatch import Deliverer, Subscriptions


class Redelivery:
    """Delivers the envelopes of records. Nothing is recorded or streamed."""

    def __init__(self, host: Host, subscriptions: Subscriptions, deliverer: Deliverer) -> None:
        self._host = host
        self._subscriptions = subscriptions
        self._deliverer = deliverer

    def deliver(self, record: Iterable[Envelope]) -> int:
        """Deliver each envelope in order; returns how many there were."""
        runs: dict[str, Run] = {}
        delivered = 0
        for envelope in record:
            event = envelope.event
            if isinstance(event, RunStarted) and envelope.run_id is not None:
                runs[envelope.run_id] = self._finished_run(envelope.run_id, event, runs)
            run = runs.get(envelope.run_id or "")
            plan = self._subscriptions.plan_of(event)
            lock = self._host.outside.lock
            with Deferring(lock), lock:  # a full queue makes this thread wait after the release
                for push, _ in plan.pushes:
                    push(self._host.bus, run, envelope)
            self._deliverer.deliver(plan, run, envelope)
            delivered += 1
        return delivered

    def _finished_run(self, run_id: str, started: RunStarted, runs: dict[str, Run]) -> Run:
        """A run as observers know it, which is not live."""
        run = Run(self._host, started.name, run_id, started.tags)
        run.parent = runs.get(started.parent_run or "")
        run.root = run.parent.root if run.parent is not None else run
        run.state = "finished"
        return run
