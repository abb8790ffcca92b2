"""Sinks: what a run's frames are pushed into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from crewbus.scopes.ports import AnyScope

if TYPE_CHECKING:
    from crewbus.events import Envelope
    from crewbus.exceptions import CrewbusError


class Sink(Protocol):
    """What a run's frames are pushed into: one consumer's buffer. Plugins may read its properties."""

    @property
    def bound(self) -> int:
        """How many frames it holds at most, if its consumer's policy is to wait or to drop."""

    @property
    def waiting(self) -> int:
        """How many frames its consumer has not processed."""

    @property
    def left_out(self) -> int:
        """How many frames were dropped for lack of room since its consumer last took any."""

    @property
    def failure(self) -> CrewbusError | None:
        """The error that its consumer gets in place of further frames, or None."""

    def attach(self, run: AnyScope) -> None:
        """Receive the frames of ``run`` from now on."""

    def push(self, run: AnyScope, envelope: Envelope) -> None:
        """Take the next frame, which ``run`` emitted; called under the root run's lock, must not block."""

    def push_once(self, run: AnyScope, envelope: Envelope) -> None:
        """As `push`, after an interrupt that may have come in the middle of it."""

    def end(self) -> None:
        """Take nothing more: the run has ended; called under the same lock."""
