"""Stores that break one sentence of the contract each, with the tests of it that must notice."""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from collections.abc import Iterator

from crewbus import MemoryStore
from crewbus.exceptions import FencedError, RecordingError, RunNotFoundError
from crewbus.stores import StoredEvent
from crewbus.stores.journal.entry import Entry
from crewbus_jsonl import JsonlStore

FAULTS: list[tuple[str, type[MemoryStore]]] = []
"""The name of a test, and a store that it must refuse."""


def noticed_by(*tests):
    def enter(store):
        FAULTS.extend((f"test_{test}", store) for test in tests)
        return store

    return enter


class Filtered(MemoryStore):
    """Changes what it is given."""

    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, self.changed(event))


# Logs


@noticed_by("events_come_back_as_they_were_given_in_order", "what_is_written_meanwhile_is_read_in_order")
class Backwards(MemoryStore):
    def read(self, root_id, after=-1):
        return iter(list(super().read(root_id, after))[::-1])


@noticed_by("a_repeated_number_is_ignored")
class TakesTheLast(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, event)
        self._logs[root_id].events[event.seq] = event


@noticed_by("a_gap_is_refused")
class ClosesGaps(MemoryStore):
    def append(self, root_id, epoch, event):
        last = self._logs[root_id].last if root_id in self._logs else -1
        super().append(root_id, epoch, event._replace(seq=min(event.seq, last + 1)))


@noticed_by("a_log_that_was_never_opened_takes_nothing")
class OpensByItself(MemoryStore):
    def append(self, root_id, epoch, event):
        if root_id not in self._logs:
            epoch = self.begin(root_id)
        super().append(root_id, epoch, event)


@noticed_by("an_epoch_that_nobody_was_given_is_refused", "who_was_taken_over_from_is_fenced", "any_calls_in_any_order")
class MindsNoEpoch(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, self._logs[root_id].epoch if root_id in self._logs else epoch, event)


@noticed_by("a_sealed_log_takes_nothing")
class SealsNothing(MemoryStore):
    def finish(self, root_id, epoch):
        super().finish(root_id, epoch)
        self._logs[root_id].open = True


@noticed_by("an_old_epoch_can_not_seal")
class SealsForAnybody(MemoryStore):
    def finish(self, root_id, epoch):
        super().finish(root_id, self.info(root_id).epoch)


@noticed_by("what_is_not_open_can_not_be_sealed")
class SealsInSilence(MemoryStore):
    def finish(self, root_id, epoch):
        if root_id in self._logs:
            super().finish(root_id, epoch)


@noticed_by("a_run_is_begun_once", "of_two_who_begin_a_log_one_goes_on")
class BeginsAgain(MemoryStore):
    def begin(self, root_id):
        return self._logs[root_id].epoch if root_id in self._logs else super().begin(root_id)


@noticed_by("the_id_of_a_nested_run_is_taken_too", "in_whose_log_a_run_is")
class KnowsRootsOnly(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, event)
        if event.run_id != root_id:
            self._roots.pop(event.run_id, None)


@noticed_by("roots_are_listed_oldest_first")
class SortsRoots(MemoryStore):
    def roots(self):
        return sorted(super().roots())


@noticed_by("reading_begins_after_a_number", "each_part_of_a_fork_is_found")
class ReadsOneMore(MemoryStore):
    def read(self, root_id, after=-1):
        return super().read(root_id, after - 1)


@noticed_by("a_log_may_be_empty")
class KnowsNoEmptyLog(MemoryStore):
    def roots(self):
        return [root for root, log in self._logs.items() if log.events]


@noticed_by("one_event_by_its_number")
class TakesTheNext(MemoryStore):
    def event(self, root_id, seq):
        return next(self.read(root_id, seq - 1))


@noticed_by("landmarks_are_the_types_that_are_named_so")
class FindsTooMuch(MemoryStore):
    def landmarks(self, root_id, after=-1):
        return self.read(root_id, after)


@noticed_by("what_is_not_there_can_not_be_read_or_taken")
class ReadsNothing(MemoryStore):
    def read(self, root_id, after=-1):
        return super().read(root_id, after) if root_id in self._logs else iter(())


@noticed_by("how_a_log_stands_through_its_life")
class StaysSealed(MemoryStore):
    def info(self, root_id):
        info = super().info(root_id)
        return info._replace(sealed=info.sealed or info.epoch > 1)


@noticed_by("what_was_dropped_is_gone_and_its_ids_are_free")
class KeepsIds(MemoryStore):
    def drop(self, root_id):
        kept = dict(self._roots)
        super().drop(root_id)
        self._roots = {run: root for run, root in kept.items() if run != root_id}


@noticed_by("a_log_that_is_alive_is_not_dropped")
class DropsTheLiving(MemoryStore):
    def drop(self, root_id):
        self.revoke(root_id)
        super().drop(root_id)


class WritesAtTheEnd(JsonlStore):
    """Faulty: keeps back what `flush` should write."""

    def add(self, entry):
        return self._position + len(entry) + 1

    def entries(self, after):
        return super().entries(after) if after == 0 else []


FAULTS += [
    ("test_flush_returns_when_all_is_written", WritesAtTheEnd),
    ("test_what_was_closed_can_be_opened_again", WritesAtTheEnd),
]


@noticed_by("who_asks_is_told_once_when_it_is_written")
class TellsTwice(MemoryStore):
    def when_written(self, root_id, notify):
        super().when_written(root_id, notify)
        super().when_written(root_id, notify)


@noticed_by("closing_lets_go")
class StaysOpen(MemoryStore):
    def close(self):
        pass


@noticed_by("what_was_closed_can_be_opened_again")
class HoldsOn(JsonlStore):
    def _release_all(self):
        pass


# Data


@noticed_by("bytes_come_back")
class TakesText(Filtered):
    def changed(self, event):
        return event._replace(data=event.data.decode(errors="replace").encode())


@noticed_by("strings_come_back")
class CutsAtZero(Filtered):
    def changed(self, event):
        return event._replace(source=event.source and event.source.partition("\0")[0])


@noticed_by("strings_come_back")
class NoSourceIsAnEmptyOne(Filtered):
    def changed(self, event):
        return event._replace(source=event.source or "")


@noticed_by("ids_are_any_strings")
class StripsIds(MemoryStore):
    def begin(self, root_id):
        return super().begin(root_id.strip() or "none")


@noticed_by("what_is_no_text_is_refused_or_comes_back")
class ReplacesWhatIsNoText(Filtered):
    def changed(self, event):
        texts = {
            name: value.encode(errors="replace").decode()
            for name, value in event._asdict().items()
            if type(value) is str
        }
        return event._replace(**texts)


@noticed_by("an_id_that_is_no_text_is_refused_or_kept")
class BeginsWithWhatIsNoText(MemoryStore):
    def begin(self, root_id):
        return super().begin(root_id.encode(errors="replace").decode())


@noticed_by("numbers_come_back")
class RoundsTimes(Filtered):
    def changed(self, event):
        return event._replace(at=round(event.at, 6))


@noticed_by("numbers_come_back")
class HoldsSmallNumbers(Filtered):
    def changed(self, event):
        return event._replace(version=struct.unpack("i", struct.pack("I", event.version & 0xFFFFFFFF))[0])


@noticed_by("many_events_in_one_log")
class CountsToSixteenBits(MemoryStore):
    def read(self, root_id, after=-1):
        return itertools.islice(super().read(root_id, after), 1 << 16)


# Leases


@noticed_by("a_log_that_is_held_is_not_taken", "of_two_who_take_a_log_one_goes_on")
class TakesWhatIsHeld(MemoryStore):
    def acquire(self, root_id):
        self.revoke(root_id)
        return super().acquire(root_id)


@noticed_by("a_log_that_is_let_go_of_can_be_taken_at_once")
class KeepsTheEpoch(MemoryStore):
    def acquire(self, root_id):
        epoch = super().acquire(root_id)
        self._logs[root_id].epoch = max(epoch - 1, 1)
        return self._logs[root_id].epoch


@noticed_by("who_was_fenced_is_not_told_that_it_is_written")
class FencesInSilence(MemoryStore):
    def append(self, root_id, epoch, event):
        with contextlib.suppress(FencedError):
            super().append(root_id, epoch, event)


@noticed_by("a_log_that_was_lost_harms_no_other")
class FailsWithOne(MemoryStore):
    failed = False

    def append(self, root_id, epoch, event):
        if self.failed:
            raise RecordingError("failed before")
        try:
            super().append(root_id, epoch, event)
        except FencedError:
            self.failed = True
            raise


@noticed_by("what_was_released_is_not_written_any_more")
class WritesOn(MemoryStore):
    def release(self, root_id, epoch):
        self.revoke(root_id)


@noticed_by("who_was_fenced_has_nothing_to_release")
class ReleasesForAnybody(MemoryStore):
    def release(self, root_id, epoch):
        super().release(root_id, self.info(root_id).epoch)


# Forks


@noticed_by("a_fork_shares_what_came_before_it")
class ForksWholeLogs(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, self._logs[root_id].last, fork_id, events)


@noticed_by("a_fork_begins_with_events_of_its_own")
class ForksBare(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id)


@noticed_by("a_fork_that_begins_elsewhere_is_not_made")
class ForksByHalves(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id)
        epoch = self.acquire(fork_id)
        for event in events:
            self.append(fork_id, epoch, event)
        self.release(fork_id, epoch)


@noticed_by("the_marks_of_a_fork")
class MarksOfItsOwn(MemoryStore):
    def marks(self, root_id):
        return reversed(self._log(root_id).marks)


@noticed_by("marks_are_the_types_that_are_named_so_last_first")
class MarksFirstFirst(MemoryStore):
    def marks(self, root_id):
        return reversed(list(super().marks(root_id)))


@noticed_by("a_fork_and_its_parent_go_on_apart")
class SharesEverything(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id, events)
        self._logs[fork_id].events = self._logs[root_id].events
        self._logs[fork_id].start = 0


@noticed_by("a_fork_of_a_log_that_is_being_written")
class ForksTheFinished(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        if not self.info(root_id).sealed:
            raise RecordingError("not finished")
        super().fork(root_id, at, fork_id, events)


@noticed_by("a_fork_ignores_again_what_it_shares")
class WritesAgainWhatIsShared(MemoryStore):
    def append(self, root_id, epoch, event):
        log = self._logs.get(root_id)
        if log is not None and event.seq < log.start:
            raise RecordingError("not a number of this log")
        super().append(root_id, epoch, event)


class OneGeneration(MemoryStore):
    def read(self, root_id, after=-1):
        parts = self._log(root_id).lineage()[-2:]
        return (event for log, stop in parts for event in log.events if after < event.seq < stop)


@noticed_by("a_fork_point_may_lie_in_what_is_shared")
class ForgetsTheNearestPoint(MemoryStore):
    def read(self, root_id, after=-1):
        logs = [log for log, _ in self._log(root_id).lineage()]
        stops = [log.start for log in logs[1:]] + [1 << 60]
        return (
            event for log, stop in zip(logs, stops, strict=True) for event in log.events if after < event.seq < stop
        )


noticed_by("forks_can_be_forked")(OneGeneration)


@noticed_by("there_is_no_fork_of_what_is_not_there")
class ForksAtTheNearest(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, min(at, self.info(root_id).last), fork_id, events)


@noticed_by("a_fork_needs_an_id_of_its_own")
class ForksOntoNestedRuns(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        if fork_id not in self._logs:
            self._roots.pop(fork_id, None)
        super().fork(root_id, at, fork_id, events)


@noticed_by("the_forks_of_a_log_oldest_first")
class SortsForks(MemoryStore):
    def forks(self, root_id):
        return sorted(super().forks(root_id))


@noticed_by("a_log_that_a_fork_needs_is_not_dropped")
class DropsAncestors(MemoryStore):
    def drop(self, root_id):
        for fork in self.forks(root_id):
            self._logs[fork].parent = None
        self._log(root_id).forks.clear()
        super().drop(root_id)


@noticed_by("dropping_a_fork_leaves_its_parent")
class DropsWhatIsShared(MemoryStore):
    def drop(self, root_id):
        parent = self._log(root_id).parent
        super().drop(root_id)
        if parent is not None:
            parent.events.clear()
            parent.last = parent.start - 1


# Threads


@noticed_by("many_threads_write_many_logs")
class IsForOneThread(MemoryStore):
    def append(self, root_id, epoch, event):
        self.thread = getattr(self, "thread", None) or threading.get_ident()
        if threading.get_ident() != self.thread:
            raise RecordingError("made in another thread")
        super().append(root_id, epoch, event)


@noticed_by("reading_sees_what_was_given_before")
class LagsBehind(MemoryStore):
    def info(self, root_id):
        info = super().info(root_id)
        return info._replace(last=info.last - 1)


@noticed_by("a_reader_may_stop_half_way")
class ReadersLock(MemoryStore):
    reading = 0

    def read(self, root_id, after=-1) -> Iterator[StoredEvent]:
        self.reading += 1
        yield from super().read(root_id, after)
        self.reading -= 1

    def append(self, root_id, epoch, event):
        if self.reading:
            raise RecordingError("locked")
        super().append(root_id, epoch, event)


# Processes


@noticed_by("a_forked_child_writes_nothing_of_its_parent")
class HoldsWhatTheParentHeld(MemoryStore):
    def after_fork(self):
        self._lock = threading.RLock()


@noticed_by("a_forked_child_records_anew")
class ClosesInTheChild(MemoryStore):
    def after_fork(self):
        self._lock = threading.RLock()
        self.begin = self.refuse

    def refuse(self, root_id):
        raise RecordingError("closed")


FAULTS += [
    ("test_a_crash_between_any_two_writes", WritesAtTheEnd),
    ("test_what_was_said_to_be_written_is_there", WritesAtTheEnd),
]


@noticed_by("a_crash_between_any_two_writes")
class LosesSeals(JsonlStore):
    def _note(self, write, **arguments):
        if write == "finish":
            return self._apply(Entry(self._writers.me, write, arguments))
        return super()._note(write, **arguments)


@noticed_by("a_crash_between_any_two_writes")
class LosesTheLandmarksOfOthers(JsonlStore):
    def landmarks(self, root_id, after=-1):
        mine = {log for (log, _), taker in self._takers.items() if taker == self._writers.me}
        return (event for event in super().landmarks(root_id, after) if root_id in mine)


@noticed_by("who_is_dead_holds_nothing")
class MournsForEver(JsonlStore):
    def _info(self, root_id):
        return self._memory.info(root_id)


@noticed_by("another_process_is_kept_out_and_then_fenced")
class KnowsOnlyItself(JsonlStore):
    def _info(self, root_id):
        info = super()._info(root_id)
        if info.alive and self._takers[root_id, info.epoch] != self._writers.me:
            self._note("revoke", root_id=root_id)
        return self._memory.info(root_id)


@noticed_by("any_calls_in_any_order")
class TakesThreeTimes(MemoryStore):
    def acquire(self, root_id):
        if root_id in self._logs and self.info(root_id).epoch >= 4:
            raise RunNotFoundError("worn out")
        return super().acquire(root_id)
