"""A recorded run that processes carry out one after the other, and what the laws say about it."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from durable_ideal import ideal
from durable_language import Call, Program, Step, nodes
from durable_mortal import CrashError, MortalStore
from durable_player import HANDLED, Disturbance, OutageError, Play, StopError, World, named
from durable_record import Recorded, same_texts
from helpers import TIMEOUT
from lifecycle_helpers import until
from recorded_helpers import Follower

import crewbus
from crewbus.events import StepFinished, StepStarted


class Process:
    """A bus that carries out one process after the other: making a bus takes longer than playing a program."""

    bus: crewbus.Bus | None = None

    def fresh(self, store: crewbus.Store) -> crewbus.Bus:
        """A bus that records to ``store``, and on which nothing is live."""
        if self.bus is None or self.bus.closed or self.bus.runs:
            self.close()
            self.bus = crewbus.Bus(entry_points=False)
        self.bus.enable_recording(store)
        return self.bus

    def close(self) -> None:
        """Close the bus."""
        bus, self.bus = self.bus, None
        if bus is not None:
            with suppress(crewbus.CrewbusError, CrashError):
                bus.close()


process: Final = Process()


def closing_from_elsewhere(bus: crewbus.Bus, run_id: str) -> threading.Thread:
    """A thread that closes the bus and suspends what is live on it; returned once the run knows."""
    run = next((one for one in bus.runs if one.id == run_id), None)
    thread = threading.Thread(target=partial(bus.close, suspend=True), daemon=True)
    thread.start()
    until(lambda: run is None or run.stop is not None or run.ended)
    return thread


class Subject:
    """A run, the program that it carries out, and what is known of it besides its record.

    ``then`` is what the processes after the first one do instead, if the program is not determined: then only law 1 is
    checked. ``edits`` are other results of steps, by place.
    """

    def __init__(
        self,
        program: Program,
        store: crewbus.Store,
        run_id: str,
        edits: Mapping[str, Any] | None = None,
        then: Program | None = None,
    ) -> None:
        self.program = program
        self.then = then
        self.store = store
        self.run_id = run_id
        self.edits = dict(edits or {})
        self._was_edited = bool(edits)
        self.ideal = ideal(then or program, self.edits)
        self.world = World()
        self.live, self.late = Follower(), Follower()
        self.result: Any = None
        self.outcome = ""
        self.sessions = 0
        self.wrong: list[str] = []
        self._closing: list[threading.Thread] = []
        """What closes the bus, suspending the run."""
        self._is_partial = False
        """Whether something was discarded that does not count any more: by a checkpoint that it was resumed from."""
        self._had_outage = False
        self._was_refused = False
        """Whether the store refused a write: an attempt that fails with that, in no step, says its text again."""
        self._speaks_outside = any(
            getattr(node, "bare", False) or getattr(node, "to", 0) for node in nodes(program.body)
        )
        """Whether something that attempts do not take back may be said between what they do."""
        self._was_cut = False
        """Whether a process ended within the run: a call may have been open."""
        calls = [node for node in nodes(program.body) if isinstance(node, Call)]
        self._calls_outside = any(isinstance(one, Step) and one.to for call in calls for one in nodes(call.body))
        """Whether a step of a run around may be called in a call, which does not take it back if it was open."""

    @property
    def is_recorded(self) -> bool:
        """Whether the store has it."""
        return self.run_id in self.store.roots()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do: it finished, or does what it should not."""
        return self.outcome in ("finished", "mismatch") or bool(self.wrong)

    # Carrying it out

    def carry_out(self, disturbance: Disturbance, at: str | None = None) -> None:
        """Begin it, or go on with it, from a checkpoint if there is one of that name."""
        closing = self._closing = []

        def deploy() -> None:
            closing.append(closing_from_elsewhere(bus, self.run_id))

        mortal = MortalStore(self.store, disturbance.crash, disturbance.refused, disturbance.suspend, deploy)
        bus = process.fresh(mortal)
        if self.is_recorded:
            self._look(bus)
        elif self.sessions:  # all of it was lost
            self.world = World(ids=self.world.ids)
            self.live, self.late = Follower(), Follower()
        play = Play(bus, self.then if self.sessions and self.then else self.program, self.world, disturbance)
        bus.on(object, self._watch)
        try:
            self.outcome = self._play(bus, play, at)
            self._was_cut |= self.outcome in ("crashed", "stopped")
        finally:
            for thread in closing:
                thread.join(TIMEOUT)
            if not closing:
                bus.off(object, self._watch)
        if closing:
            bus = process.fresh(MortalStore(self.store))
            self._look_what_is_released()
        self.wrong += [told for told in self.world.faults if self.then is None or told.startswith("law 1")]
        with suppress(crewbus.RunNotFoundError):
            self._follow(bus, self.live)
            if self.outcome == "crashed":
                mortal.survive(disturbance.lost)
            if not self.sessions:
                self._follow(bus, self.late, 3)
        self.sessions += 1

    def _follow(self, bus: crewbus.Bus, follower: Follower, frames: int | None = None) -> None:
        """Let somebody read on, or so many frames; of a suspended run what is there, since they would wait for more."""
        if self.outcome == "suspended":
            there = Recorded(bus.record_of(self.run_id)).chunks_after(follower.frames)
            frames = there if frames is None else min(frames, there)
        follower.follow(bus, self.run_id, frames)

    def _look_what_is_released(self) -> None:
        """Once the bus is closed, the run has ended or is suspended, also where nothing was left but to end."""
        state = self.store.summary(self.run_id).state
        if state == "suspended":
            self.outcome = state
        elif state not in ("finished", "failed"):
            self.wrong.append(f"law 2: the bus is closed, and the run is {state}")

    def _watch(self, envelope: crewbus.Envelope) -> None:
        if envelope.seq < 0 and not self._closing:  # what is emitted on the way out is discarded
            self.world.faults.append(f"law 1: {envelope.event} is numbered {envelope.seq}")
        if isinstance(envelope.event, StepStarted):
            self.world.started = envelope.event.identity

    def _play(self, bus: crewbus.Bus, play: Play, at: str | None) -> str:
        try:
            self.result = play.go(self._run(bus, at))
        except CrashError:
            return "crashed"
        except (crewbus.Suspended, crewbus.RunSuspendedError):
            return "suspended"
        except (StopError, crewbus.Cancelled, crewbus.RunCancelledError):
            return "stopped"
        except (OutageError, crewbus.RecordingError) as error:
            self._had_outage = True
            self._was_refused |= isinstance(error, crewbus.RecordingError)
            return "stopped"
        except HANDLED as error:
            if self.then is None and named(error) != self.ideal.error:
                self.wrong.append(f"law 2: it fails with {error!r}, undisturbed {self.ideal.error or 'not at all'}")
            return "failed"
        except BaseException as error:
            if isinstance(error, crewbus.ReplayMismatch) and self.then is not None:
                return "mismatch"
            told = "".join(traceback.format_exception(error)[-3:])
            self.wrong.append(f"law 2: {type(error).__name__}: {error}\n{told}")
            return "wrong"
        return "finished"

    def _run(self, bus: crewbus.Bus, at: str | None) -> crewbus.Run:
        if not self.is_recorded:
            return bus.run("program", id=self.run_id)
        if at is not None and at in [saved.name for saved in bus.records.checkpoints(self.run_id)]:
            self._is_partial = True
            recorded = Recorded(bus.record_of(self.run_id))
            last = recorded.checkpoint(at)
            self._forget_edits(recorded, last)
            counting = (one for one in recorded.valid if one.seq <= last and not recorded.is_tried_again(one, last))
            self._know(Recorded(counting))
            return bus.resume(self.run_id, at)
        return bus.resume(self.run_id)

    def _forget_edits(self, recorded: Recorded, last: int) -> None:
        """Expect no result of an edit behind a checkpoint: it counts for nothing any more."""
        later = {
            recorded.identity(one) for one in recorded.valid if isinstance(one.event, StepFinished) and one.seq > last
        }
        places = {self.world.places.get(identity) for identity in later}
        self.edits = {place: value for place, value in self.edits.items() if place not in places}
        self.ideal = ideal(self.then or self.program, self.edits)

    def _look(self, bus: crewbus.Bus) -> None:
        self._know(Recorded(bus.record_of(self.run_id)))

    def _know(self, recorded: Recorded) -> None:
        """Let the steps not be executed again whose outcomes are recorded.

        Of one that failed beside other strands, the record does not say whether the code went on after it.
        """
        known = self.world.places
        outcomes = {known[identity]: failed for identity, failed in recorded.outcomes().items() if identity in known}
        self.world.recorded = frozenset(
            place for place, failed in outcomes.items() if not (failed and place in self.world.beside)
        )

    # Forking

    def fork(self, fork_id: str | None, edit: int | None = None) -> Subject | None:
        """Another run that goes on from a checkpoint, or from a step that gets another result; None: there is none."""
        bus = process.fresh(MortalStore(self.store))
        recorded = Recorded(bus.record_of(self.run_id))
        edits: dict[str, Any] = {}
        if edit is None:
            names = sorted(saved.name for saved in bus.records.checkpoints(self.run_id))
            if fork_id is None or fork_id not in names:
                return None
            made = bus.fork(self.run_id, fork_id)
            last = recorded.checkpoint(fork_id)
        else:
            found = self._editable(recorded)
            if not found:
                return None
            name, end = found[edit % len(found)]
            place = end.event.result[0]
            value = [place, "ok", "edited"]
            try:
                made = bus.fork(self.run_id, edits={name: value})
            except crewbus.StepError:  # what it did was taken back
                return None
            edits[place] = value
            last = end.seq
        other = Subject(self.program, self.store, made, {**self.edits, **edits})
        other.world.places = dict(self.world.places)
        other._forget_edits(recorded, last)
        other.world.begun = Counter(self.world.begun)
        other.world.beside = set(self.world.beside)
        other._had_outage, other._was_refused = self._had_outage, self._was_refused
        other._was_cut = self._was_cut
        other._know(Recorded(one for one in recorded.valid if one.seq <= last))
        return other

    def _editable(self, recorded: Recorded) -> list[tuple[str, crewbus.Envelope]]:
        """The steps that finished, and that their name and key distinguish from all others, with their ends."""
        named: dict[str, list[crewbus.Envelope]] = {}
        for one in recorded.valid:
            if isinstance(one.event, StepFinished):
                start = recorded.by_id[one.parent or ""].event
                named.setdefault(f"{start.name}[{start.key}]", []).append(one)
        return [(name, ends[0]) for name, ends in named.items() if len(ends) == 1]

    # The laws

    def compare(self) -> list[str]:
        """What is wrong with a run that has ended."""
        if self.wrong or self.outcome == "mismatch":
            return self.wrong
        if self.outcome not in ("finished", "failed"):
            return [f"law 2: the run does not end: it is {self.outcome}"]
        bus = process.fresh(MortalStore(self.store))
        recorded = Recorded(bus.record_of(self.run_id))
        if [one.seq for one in recorded.all] != list(range(len(recorded.all))):
            self.wrong.append("law 1: the numbers have gaps")
        if self.then is not None:
            if self.outcome == "finished" and self.sessions > 1:
                self._compare_new(bus)
            return self.wrong
        if not self.ideal.error and self.result != self.ideal.result:
            self.wrong.append(f"law 2: the result is {self.result}, undisturbed {self.ideal.result}")
        if self.ideal.is_determined:
            self._compare_texts(bus)
            self._compare_counts(recorded)
        self._compare_steps(recorded)
        self._compare_checkpoints(bus)
        for one in recorded.taken_wrongly():
            self.wrong.append(f"law 2: {one.event} (number {one.seq}) was valid, and retracted")
        return self.wrong

    def _said(self, texts: list[str]) -> list[str]:
        """Texts without those of a handler that does not say again what it said before."""
        return [text for text in texts if self.program.handles != "once" or not text.startswith("!")]

    def _compare_new(self, bus: crewbus.Bus) -> None:
        """All that the code said last is there."""
        reader = Follower()
        reader.follow(bus, self.run_id)
        lost = Counter(self._said(self.ideal.texts())) - Counter(reader.texts)
        if lost:
            self.wrong.append(f"law 1: {dict(lost)} is not in {reader.texts}")

    def _compare_texts(self, bus: crewbus.Bus) -> None:
        expected = self._said(self.ideal.texts())
        reader = Follower()
        for who, follower in (("reads afterwards", reader), ("followed live", self.live), ("came back", self.late)):
            follower.follow(bus, self.run_id)
            found = self._said(follower.texts)
            if not self._agree(found, expected):
                self.wrong.append(f"law 2: who {who} has {found}, undisturbed {expected}")
        with bus.subscribe(self.run_id, after="start") as stream:
            if not self.wrong and stream.text() != "".join(reader.texts):
                self.wrong.append("law 2: text() differs from the frames")
        for place in self.ideal.runs():
            run_id = self.world.ids.get(place) if place else None
            if run_id is not None and self.store.root_of(run_id) == self.run_id and not self._had_outage:
                nested = Follower()
                nested.follow(bus, run_id)
                found, expected = self._said(nested.texts), self._said(self.ideal.texts(place))
                if not self._agree(found, expected):
                    self.wrong.append(f"law 2: the nested run at {place} says {found}, undisturbed {expected}")

    def _agree(self, found: list[str], expected: list[str]) -> bool:
        """Whether a text is as undisturbed.

        What an outage took back of an attempt comes after what was said meanwhile and does not belong to the attempt;
        what a resume took back of an open call, after what a step of a run around it said that was called in it.
        """
        may_move = (self._had_outage and self._speaks_outside) or (self._was_cut and self._calls_outside)
        return same_texts(found, expected) or (may_move and Counter(found) == Counter(expected))

    def _compare_counts(self, recorded: Recorded) -> None:
        """All that the code emits is recorded once, also what a failed attempt took back."""
        may_repeat = self._is_partial or self._was_refused
        for kind in ("Say", "Note", "Save"):
            made, once = (Counter(self._said([*counts.elements()])) for counts in recorded.counts(kind))
            expected = Counter(self._said([*self.ideal.counts(kind).elements()]))
            if expected - made:
                self.wrong.append(f"law 1: {kind} {dict(made)}, undisturbed {dict(expected)}")
            elif once - expected and not (recorded.failed_again() or may_repeat):
                self.wrong.append(f"law 2: {kind} {dict(once)}, undisturbed {dict(expected)}")

    def _compare_steps(self, recorded: Recorded) -> None:
        places = self.world.places
        never = {place for place in self.ideal.steps if not self.world.begun[place]}
        unknown = {place for place in self.world.begun if place not in self.ideal.steps}
        if never:
            self.wrong.append(f"law 3: never executed: {sorted(never)}")
        if unknown and not self._was_edited:
            self.wrong.append(f"law 3: executed, and undisturbed not: {sorted(unknown)}")
        for place, count in Counter(places.values()).items():
            if count > 1:
                self.wrong.append(f"law 5: step {place} has {count} identities")
        ends = Counter(
            recorded.identity(one)
            for one in recorded.valid
            if isinstance(one.event, StepFinished) and not recorded.is_tried_again(one, one.seq)
        )
        for identity, count in ends.items():
            if count > 1 and not (self._was_edited and self._is_partial) and places.get(identity) not in self.edits:
                self.wrong.append(f"law 3: step {places.get(identity)} finished {count} times")

    def _compare_checkpoints(self, bus: crewbus.Bus) -> None:
        names = {saved.name for saved in bus.records.checkpoints(self.run_id)}
        lost = set(self.ideal.counts("Save")) - names
        if lost:
            self.wrong.append(f"law 1: there are no checkpoints {sorted(lost)}")
        for name in sorted(names)[:1]:
            bus.fork(self.run_id, name)
