"""Attempts: one try each at a piece of work that is retried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from crewbus._util import generation, is_within, levels, name_of
from crewbus.events import AttemptEnded, AttemptStarted, Envelope, Retracted
from crewbus.exceptions import RunError, text_of
from crewbus.scopes.current import enclosing
from crewbus.scopes.ports import Phase
from crewbus.scopes.scope import Scope, ScopeKind, checked_attempt_number, checked_error
from crewbus.scopes.thread_state import Deferring
from crewbus.scopes.tries import Tries, tries_at

__all__ = ["Attempt"]


class Attempt(Scope):
    """One try at a piece of work that is retried. If an Exception ends it, the chunks streamed in it are retracted.

    Made by `Run.attempt` and `Call.attempt`. Calls and runs that start in it are part of it. What its threads still
    stream after it failed is discarded, with a warning. A cancelled attempt keeps what it streamed, unless another
    attempt follows, as with a timeout inside a retry.
    """

    __slots__ = (
        "_born", "_end", "_number", "_reason", "_started", "_tries", "failed", "of", "opened", "since", "starts",
        "streamed",
    )  # fmt: skip

    scope_kind: ClassVar[ScopeKind] = "attempt"

    def __init__(self, of: Scope, number: int | None) -> None:
        super().__init__(of.host)
        self.of = of
        """What it is an attempt at."""
        self._number = checked_attempt_number(number)
        self._tries: Tries | None = None
        self._started = False
        self._end: AttemptEnded | None = None
        """The event that ends it, until it is emitted."""
        self._reason: str | None = None
        """Why it failed, until what was streamed in it is retracted."""
        self._born = generation.number
        self.failed = False
        self.streamed = False
        """Whether anything was streamed in it."""
        self.since = 0
        """The number of the first event that can have been emitted in it."""
        self.starts: tuple[str, ...] = ()
        """The ids of its starts, in the record of a resumed run too: those of what is in it begin with one of them."""
        self.opened: list[str] = []
        """The ids that cover what it streams: those of its starts, and of what is in it and begins with none of them.

        There is nothing of the latter kind, except in a resumed run. There, what stands for something recorded is
        noted once anything new is in it, and else what it repeats: that may be recorded in another attempt.
        """

    def __repr__(self) -> str:
        return f"<Attempt {self.attempt_number} at {self.of!r}>"

    @property
    def name(self) -> str | None:  # type: ignore[override]
        """The name of what it is an attempt at."""
        return self.of.name

    @property
    def number(self) -> int:
        """Which attempt it is, from 1."""
        return self.attempt_number

    def start(self) -> None:
        """Start the attempt, without making it current. Raises `RunError` if it was started before."""
        if self._started:
            raise RunError(f"{self!r} was started before: make another with attempt()")
        self.outer = enclosing()
        self.of = _in_progress(self.of.innermost())
        if self.of.start_id is None:
            raise RunError(f"{self.of!r} has not started, so there is nothing to attempt yet")
        self.join(self.of)
        if self.run is not None:
            self.run.check()
        self.surround()
        self._tries = tries = tries_at(self.of)
        self.attempt_number, cancelled = tries.next(self._number)
        if cancelled is not None:
            cancelled.retract("cancelled, and tried again")
        self._started, self.ended = True, False
        try:
            self.host.transition(self, AttemptStarted(self.attempt_number), Phase.START)
        except BaseException:
            self.ended = True
            raise

    def join(self, of: Scope) -> None:
        """Resolve what it belongs to: the same as ``of``, of which it is an attempt."""
        self.run, self.call, self.tree, self.step_parent = of.run, of.call, of.tree, of.step_parent
        self.inherit(of)
        self.attempts = (*of.attempts, self)

    def transition(self, phase: Phase, envelope: Envelope) -> None:
        """Be started or ended by ``envelope``; called under the lock."""
        if phase == Phase.START and not envelope.replayed:
            self.starts += (envelope.id,)
        super().transition(phase, envelope)
        if phase == Phase.END:
            self._reason = None
            if isinstance(envelope.event, AttemptEnded):
                self._end = None
        elif not self.since:  # a resumed run may begin it anew
            self.since = envelope.seq + 1

    def note(self, of: str, *, alone: bool = False) -> None:
        """Note that a scope of this id is in it, or ``alone``, without what is in that; called under the lock."""
        if not is_within(of, self.opened):
            own = next((level for level in levels(of) if level in self.starts), None)
            self.opened.append(own or (of.removesuffix("/") if alone else of))

    def accepts(self, phase: Phase) -> bool:  # noqa: ARG002 - as of any scope
        """Always: its end is its retraction, which `finish` and `fail` admit once."""
        return True

    def note_all(self, of: Iterable[str]) -> None:
        """As `note`, for several."""
        for one in of:
            self.note(one)

    def finish(self) -> None:
        """End the attempt: it succeeded. Ending it again does nothing."""
        if self.claim_end(end=AttemptEnded(self.attempt_number, "succeeded")):
            self.opened = []
            if self._tries is not None:
                self._tries.succeeded(self.of)
            self.tree.lane.kept(self)
        self._emit_end()

    def fail(self, error: BaseException | str) -> None:
        """End the attempt with ``error``: an Exception, or a text that describes one, retracts what was streamed.

        Ending it again does nothing.
        """
        checked_error(error, str)
        # Nothing is known to be wrong with what a cancelled or aborted attempt did: a resume continues with it.
        is_stopped = not isinstance(error, Exception | str) or self.is_suspending()
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}"
        if self.claim_end(None if is_stopped else reason, self._ended_by(error)) and self._tries is not None:
            self._tries.failed(self.of, self if is_stopped else None)
        if self._reason is not None:  # also if an interrupt came before, once it had ended
            self.retract(self._reason)
        self._emit_end()

    def _ended_by(self, error: BaseException | str) -> AttemptEnded | None:
        """The event that ends it with ``error``; None: it stays open, to be resumed."""
        if self.is_suspending():
            return None
        if isinstance(error, str):
            return AttemptEnded(self.attempt_number, "failed", message=error)
        if not isinstance(error, Exception):
            return AttemptEnded(self.attempt_number, "cancelled")
        return AttemptEnded(self.attempt_number, "failed", name_of(type(error)), text_of(error))

    def _emit_end(self) -> None:
        if self._end is not None and not (self.run is not None and self.run.ended):
            self.host.transition(self, self._end, Phase.END)

    def is_suspending(self) -> bool:
        """Whether its run is being suspended, so that it stays open in the record if anything goes wrong."""
        return self.run is not None and self.run.is_suspending()

    def claim_end(self, reason: str | None = None, end: AttemptEnded | None = None) -> bool:
        """Whether it was in progress until now; ``reason``: why it failed, for what is streamed in it to be retracted.

        ``end``: the event that is then to end it. In a forked child it was not: it continues in the parent.
        """
        with Deferring(self.tree.lock), self.tree.lock:
            claimed = not self.ended and self._born == generation.number
            self.ended, self.tries, self._reason = True, (), reason if claimed else self._reason
            self._end = end if claimed else self._end
        return claimed

    def retract(self, reason: str) -> None:
        """Retract the chunks that were streamed in it."""
        with Deferring(self.tree.lock), self.tree.lock:
            self.failed = True
            parents = self.covering()
        self.host.transition(self, Retracted(self.since, reason, parents), Phase.END)

    def covering(self) -> tuple[str, ...]:
        """The `Retracted.parents` that cover what it streams; called under the lock. Never empty."""
        return tuple(self.opened) or tuple(filter(None, (self.start_id,)))

    def end(self, error: BaseException | None) -> None:
        """End it as its ``with`` block ended."""
        if error is None:
            self.finish()
        else:
            self.fail(error)


def _in_progress(scope: Scope) -> Scope:
    """``scope``; or what is around it if it is an ended attempt, since a retry may be made inside the failed one."""
    while isinstance(scope, Attempt) and scope.ended:
        scope = scope.of
    return scope.represented()
