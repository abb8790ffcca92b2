"""Stores that break one sentence of the contract each, with the tests of it that must notice."""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from collections.abc import Iterator

import attrs

from crewbus import MemoryStore
from crewbus.exceptions import FencedError, RecordingError, RunEndedError, RunIdInUseError, RunNotFoundError
from crewbus.stores import ENDS, Claimed, StoredEvent
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


@noticed_by("events_come_back_unchanged_in_order", "a_growing_log_is_read_in_order")
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


@noticed_by("a_log_that_was_never_begun_takes_nothing")
class OpensByItself(MemoryStore):
    def append(self, root_id, epoch, event):
        if root_id not in self._logs:
            epoch = self.begin(root_id)
        super().append(root_id, epoch, event)


@noticed_by("an_unknown_epoch_is_refused", "a_former_holder_is_fenced", "any_calls_in_any_order")
class MindsNoEpoch(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, self._logs[root_id].epoch if root_id in self._logs else epoch, event)


@noticed_by("a_sealed_log_takes_nothing")
class SealsNothing(MemoryStore):
    def finish(self, root_id, epoch):
        super().finish(root_id, epoch)
        self._logs[root_id].open = True


@noticed_by("an_old_epoch_can_not_finish")
class SealsWithoutEpoch(MemoryStore):
    def finish(self, root_id, epoch):
        super().finish(root_id, self.info(root_id).epoch)


@noticed_by("a_missing_log_can_not_be_finished")
class SealsInSilence(MemoryStore):
    def finish(self, root_id, epoch):
        if root_id in self._logs:
            super().finish(root_id, epoch)


@noticed_by("a_run_is_begun_once", "of_two_beginning_a_log_one_succeeds", "of_two_beginning_a_log_one_is_confirmed")
class BeginsAgain(MemoryStore):
    def begin(self, root_id):
        return self._logs[root_id].epoch if root_id in self._logs else super().begin(root_id)


@noticed_by("the_id_of_a_nested_run_is_in_use_too", "root_of_names_the_log_of_a_run")
class KnowsRootsOnly(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, event)
        if event.run_id != root_id:
            self._roots.pop(event.run_id, None)


@noticed_by("roots_are_listed_oldest_first")
class SortsRoots(MemoryStore):
    def roots(self):
        return sorted(super().roots())


@noticed_by("reading_begins_after_a_number", "all_parts_of_a_fork_are_read")
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


@noticed_by("landmarks_are_the_landmark_events")
class FindsTooMuch(MemoryStore):
    def landmarks(self, root_id, after=-1):
        return self.read(root_id, after)


@noticed_by("a_missing_log_can_not_be_used")
class ReadsNothing(MemoryStore):
    def read(self, root_id, after=-1):
        return super().read(root_id, after) if root_id in self._logs else iter(())


@noticed_by("info_follows_the_life_of_a_log")
class StaysSealed(MemoryStore):
    def info(self, root_id):
        info = super().info(root_id)
        return info._replace(sealed=info.sealed or info.epoch > 1)


@noticed_by("a_dropped_log_is_gone_and_its_ids_are_free")
class KeepsIds(MemoryStore):
    def drop(self, root_id):
        kept = dict(self._roots)
        super().drop(root_id)
        self._roots = {run: root for run, root in kept.items() if run != root_id}


@noticed_by("a_live_log_is_not_dropped")
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
    ("test_a_closed_store_can_be_opened_again", WritesAtTheEnd),
]


@noticed_by("when_written_notifies_once")
class TellsTwice(MemoryStore):
    def when_written(self, root_id, notify):
        super().when_written(root_id, notify)
        super().when_written(root_id, notify)


@noticed_by("closing_releases_held_logs")
class StaysOpen(MemoryStore):
    def close(self):
        pass


@noticed_by("a_closed_store_can_be_opened_again")
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


@noticed_by("invalid_text_is_refused_or_comes_back")
class ReplacesWhatIsNoText(Filtered):
    def changed(self, event):
        texts = {
            name: value.encode(errors="replace").decode()
            for name, value in event._asdict().items()
            if type(value) is str
        }
        return event._replace(**texts)


@noticed_by("an_invalid_id_is_refused_or_kept")
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


@noticed_by("a_held_log_can_not_be_acquired", "of_two_acquiring_a_log_one_succeeds")
class TakesWhatIsHeld(MemoryStore):
    def acquire(self, root_id):
        self.revoke(root_id)
        return super().acquire(root_id)


@noticed_by("a_released_log_can_be_acquired_at_once")
class KeepsTheEpoch(MemoryStore):
    def acquire(self, root_id):
        epoch = super().acquire(root_id)
        self._logs[root_id].epoch = max(epoch - 1, 1)
        return self._logs[root_id].epoch


@noticed_by("a_fenced_holder_is_notified_with_the_error")
class FencesInSilence(MemoryStore):
    def append(self, root_id, epoch, event):
        with contextlib.suppress(FencedError):
            super().append(root_id, epoch, event)


@noticed_by("a_holder_confirms_its_log")
class ConfirmsNobody(MemoryStore):
    def confirm(self, root_id, epoch):
        super().confirm(root_id, epoch + 1)


@noticed_by("a_former_holder_is_told_by_confirm")
class ConfirmsAnybody(MemoryStore):
    def confirm(self, root_id, epoch):
        self.flush()


@noticed_by("a_lost_log_does_not_affect_others")
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


@noticed_by("a_log_is_opened_once")
class OpensAnything(MemoryStore):
    def open_log(self, root_id):
        return 1

    def confirm(self, root_id, epoch):
        pass


@noticed_by("a_holder_is_told_that_it_lost_a_log")
class TellsOfTheTaker(MemoryStore):
    def on_lost(self, notify):
        self.notify = notify
        return lambda: None

    def acquire(self, root_id):
        epoch = super().acquire(root_id)
        self.notify(root_id, epoch, FencedError(root_id))
        return epoch


@noticed_by("a_released_log_takes_nothing")
class WritesOn(MemoryStore):
    def release(self, root_id, epoch):
        self.revoke(root_id)


@noticed_by("release_by_a_fenced_holder_is_ignored")
class ReleasesWithoutEpoch(MemoryStore):
    def release(self, root_id, epoch):
        super().release(root_id, self.info(root_id).epoch)


# Forks


@noticed_by("a_fork_shares_the_events_before_it")
class ForksWholeLogs(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, self._logs[root_id].last, fork_id, events)


@noticed_by("a_fork_may_begin_with_events_of_its_own")
class ForksBare(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id)


@noticed_by("a_fork_whose_events_leave_a_gap_is_refused")
class ForksByHalves(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id)
        epoch = self.acquire(fork_id)
        for event in events:
            self.append(fork_id, epoch, event)
        self.release(fork_id, epoch)


@noticed_by("marks_of_a_fork_include_the_shared_ones")
class MarksOfItsOwn(MemoryStore):
    def marks(self, root_id):
        return reversed(self._log(root_id).marks)


@noticed_by("marks_come_last_first")
class MarksFirstFirst(MemoryStore):
    def marks(self, root_id):
        return reversed(list(super().marks(root_id)))


@noticed_by("a_fork_and_its_parent_grow_independently")
class SharesEverything(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id, events)
        self._logs[fork_id].events = self._logs[root_id].events
        self._logs[fork_id].start = 0


@noticed_by("a_log_in_progress_can_be_forked")
class ForksTheFinished(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        if not self.info(root_id).sealed:
            raise RecordingError("not finished")
        super().fork(root_id, at, fork_id, events)


@noticed_by("a_fork_ignores_repeated_shared_events")
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


@noticed_by("a_fork_point_may_lie_in_the_shared_part")
class ForgetsTheNearestPoint(MemoryStore):
    def read(self, root_id, after=-1):
        log, logs = self._log(root_id), []
        while log is not None:
            logs.insert(0, log)
            log = log.parent
        stops = [log.start for log in logs[1:]] + [1 << 60]
        return (
            event for log, stop in zip(logs, stops, strict=True) for event in log.events if after < event.seq < stop
        )


noticed_by("forks_can_be_forked")(OneGeneration)


@noticed_by("forking_at_a_missing_event_is_refused")
class ForksAtTheNearest(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, min(at, self.info(root_id).last), fork_id, events)


@noticed_by("a_fork_needs_an_unused_id")
class ForksOntoNestedRuns(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        if fork_id not in self._logs:
            self._roots.pop(fork_id, None)
        super().fork(root_id, at, fork_id, events)


@noticed_by("forks_are_listed_oldest_first")
class SortsForks(MemoryStore):
    def forks(self, root_id):
        return sorted(super().forks(root_id))


@noticed_by("a_log_with_forks_is_not_dropped")
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


# Work that anyone may take


@noticed_by("a_created_log_has_its_events_and_no_holder")
class CreatesHeld(MemoryStore):
    def create(self, root_id, events, until=None):
        super().create(root_id, events, until)
        self.acquire(root_id)


@noticed_by("a_created_log_was_never_taken")
class CreatesInSteps(MemoryStore):
    def create(self, root_id, events, until=None):
        super().create(root_id, events)
        self.release(root_id, self.acquire(root_id), until)


@noticed_by("creating_a_log_needs_an_unused_id")
class CreatesOntoNestedRuns(MemoryStore):
    def create(self, root_id, events, until=None):
        if root_id not in self._logs:
            self._roots.pop(root_id, None)
        super().create(root_id, events, until)


@noticed_by("a_log_is_not_created_from_events_that_are_not_its_first")
class Renumbers(MemoryStore):
    def create(self, root_id, events, until=None):
        super().create(root_id, [event._replace(seq=number) for number, event in enumerate(events)], until)


@noticed_by("of_two_creating_a_log_one_succeeds")
class CreatesAgain(MemoryStore):
    def create(self, root_id, events, until=None):
        with contextlib.suppress(RunIdInUseError):
            super().create(root_id, events, until)


class ClaimsMore(MemoryStore):
    """Claims logs, too, that no claim may take."""

    def claim(self, claim):
        found = super().claim(claim)
        return found + [Claimed(root_id, self.acquire(root_id)) for root_id in self._logs if self.wants(root_id)]

    def wants(self, root_id):
        log = self._logs[root_id]
        return not log.held and not log.sealed and self.too(log)


@noticed_by("what_has_ended_is_not_claimed")
class ClaimsTheEnded(ClaimsMore):
    def too(self, log):
        return log.end is not None


@noticed_by("a_suspended_log_is_claimed")
class LeavesTheSuspended(MemoryStore):
    def claim(self, claim):
        return [claimed for claimed in super().claim(claim) if self._logs[claimed.root_id].end is None]


@noticed_by("a_log_without_events_is_not_claimed")
class ClaimsTheEmpty(ClaimsMore):
    def too(self, log):
        return log.last < 0


@noticed_by("a_fork_is_claimed_once_it_was_acquired")
class ClaimsForks(ClaimsMore):
    def too(self, log):
        return log.parent is not None


@noticed_by("a_log_that_stalls_is_left_alone")
class IsPatient(ClaimsMore):
    def too(self, log):
        return log.stalls


@noticed_by("logs_are_claimed_oldest_first")
class ClaimsAll(MemoryStore):
    def claim(self, claim):
        return super().claim(attrs.evolve(claim, limit=100))


@noticed_by("logs_are_claimed_by_tags", "any_calls_that_share_work_in_any_order")
class MindsNoTags(MemoryStore):
    def claim(self, claim):
        return super().claim(attrs.evolve(claim, tags={}))


@noticed_by("caps_limit_what_is_alive", "concurrent_claims_keep_their_caps")
class MindsNoCaps(MemoryStore):
    def claim(self, claim):
        return super().claim(attrs.evolve(claim, caps=()))


@noticed_by("a_released_log_is_claimed_again")
class ClaimsTheNew(MemoryStore):
    def claim(self, claim):
        return [claimed for claimed in super().claim(claim) if claimed.epoch == 1]


@noticed_by("of_two_claiming_each_log_has_one_holder")
class TakesNothing(MemoryStore):
    def claim(self, claim):
        return [Claimed(root_id, self.info(root_id).epoch + 1) for root_id in self.claimable(claim)]


@noticed_by("a_log_is_not_claimed_before_it_is_due")
class ForgetsTimes(MemoryStore):
    def release(self, root_id, epoch, until=None):
        super().release(root_id, epoch)


@noticed_by("release_by_a_fenced_holder_does_not_make_a_log_wait")
class WaitsForTheFenced(MemoryStore):
    def release(self, root_id, epoch, until=None):
        super().release(root_id, epoch, until)
        self._logs[root_id].due = until


@noticed_by("a_log_that_gets_on_does_not_stall")
class CountsOn(MemoryStore):
    def append(self, root_id, epoch, event):
        stalls = self._logs[root_id].stalls
        super().append(root_id, epoch, event)
        self._logs[root_id].stalls = stalls


# Messages


@noticed_by("messages_come_in_order")
class NewestMessageFirst(MemoryStore):
    def posted(self, root_id, after=-1):
        return super().posted(root_id, after)[::-1]


@noticed_by("messages_are_any_bytes_on_any_channel")
class PostsText(MemoryStore):
    def post(self, root_id, channel, data, key=None):
        return super().post(root_id, channel, data.decode(errors="replace").encode(), key)


@noticed_by("a_message_with_a_key_is_posted_once", "concurrent_senders_lose_no_message")
class MindsNoKeys(MemoryStore):
    def post(self, root_id, channel, data, key=None):
        return super().post(root_id, channel, data)


@noticed_by("a_sealed_log_takes_no_messages")
class PostsToTheDead(MemoryStore):
    def post(self, root_id, channel, data, key=None):
        with contextlib.suppress(RunEndedError):
            return super().post(root_id, channel, data, key)


@noticed_by("a_log_that_is_not_there_has_no_mailbox")
class HasAllMailboxes(MemoryStore):
    def posted(self, root_id, after=-1):
        return super().posted(root_id, after) if root_id in self._logs else []


@noticed_by("a_mailbox_belongs_to_one_log")
class ForksMail(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, at, fork_id, events)
        self._logs[fork_id].mail = [*self._logs[root_id].mail]


@noticed_by("a_message_changes_nothing_else")
class ReleasesWhatItPostsTo(MemoryStore):
    def post(self, root_id, channel, data, key=None):
        number = super().post(root_id, channel, data, key)
        self.revoke(root_id)
        return number


@noticed_by("a_message_ends_the_wait_of_a_log")
class LetsWait(MemoryStore):
    def post(self, root_id, channel, data, key=None):
        due = self._logs[root_id].due
        number = super().post(root_id, channel, data, key)
        self._logs[root_id].due = due
        return number


@noticed_by("the_messages_of_many_logs_come_at_once")
class MailsToAll(MemoryStore):
    def mail(self, after):
        return {root_id: [] for root_id in after} | super().mail(after)


# Watching


@noticed_by("changes_are_noticed", "a_message_is_noticed")
class NotifiesNobody(MemoryStore):
    def watch(self, notify):
        return lambda: None


@noticed_by("each_watcher_is_notified_until_it_stops")
class StopsAll(MemoryStore):
    def watch(self, notify):
        super().watch(notify)
        return self._watchers.__init__


@noticed_by("a_watcher_that_raises_harms_nobody")
class NotifiesOne(MemoryStore):
    def watch(self, notify):
        stop = super().watch(notify)
        self._watchers._notifies = self._watchers._notifies[:1]
        return stop


# Threads


@noticed_by("many_threads_write_many_logs")
class IsForOneThread(MemoryStore):
    def append(self, root_id, epoch, event):
        self.thread = getattr(self, "thread", None) or threading.get_ident()
        if threading.get_ident() != self.thread:
            raise RecordingError("made in another thread")
        super().append(root_id, epoch, event)


@noticed_by("reading_sees_earlier_writes")
class LagsBehind(MemoryStore):
    def info(self, root_id):
        info = super().info(root_id)
        return info._replace(last=info.last - 1)


@noticed_by("a_reader_may_stop_halfway")
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


@noticed_by("a_forked_child_does_not_write_its_parents_logs")
class HoldsWhatTheParentHeld(MemoryStore):
    def after_fork(self):
        self._lock = threading.RLock()


@noticed_by("a_forked_child_records_its_own_runs")
class ClosesInTheChild(MemoryStore):
    def after_fork(self):
        self._lock = threading.RLock()
        self.begin = self.refuse

    def refuse(self, root_id):
        raise RecordingError("closed")


FAULTS += [
    ("test_a_crash_between_any_two_writes", WritesAtTheEnd),
    ("test_confirmed_writes_survive_a_crash", WritesAtTheEnd),
]


@noticed_by("what_was_created_and_posted_survives_a_crash")
class LosesMessages(JsonlStore):
    def _note(self, write, **arguments):
        if write == "post_at":
            return self._apply(Entry(self._writers.me, write, arguments))
        return super()._note(write, **arguments)


@noticed_by("what_a_killed_process_claimed_is_claimed_again")
class ClaimsTheNewOfAll(JsonlStore):
    def claim(self, claim):
        return [claimed for claimed in super().claim(claim) if claimed.epoch == 1]


@noticed_by("processes_share_work")
class MindsNoCapsOfOthers(JsonlStore):
    def claim(self, claim):
        return super().claim(attrs.evolve(claim, caps=()))


@noticed_by("changes_by_another_process_are_noticed")
class NotifiesNobodyOfOthers(JsonlStore):
    def watch(self, notify):
        return lambda: None


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


@noticed_by("a_killed_process_holds_nothing")
class MournsForEver(JsonlStore):
    def _info(self, root_id):
        return self._memory.info(root_id)


@noticed_by("a_log_is_taken_over_from_another_process")
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


# Events that are alike


@noticed_by("events_that_are_alike_come_back_from_any_number", "very_many_that_are_alike_come_back")
class ReadsFromTheBeginningOfASegment(MemoryStore):
    def read(self, root_id, after=-1):
        return super().read(root_id, max(after - after % 16, -1))


@noticed_by("one_that_differs_comes_back")
class MakesAllAlike(Filtered):
    def changed(self, event):
        log = self._logs[event.run_id.partition("/")[0]]
        return event if not log.events else log.events[0]._replace(seq=event.seq, at=event.at)


@noticed_by("a_fork_may_share_a_part_of_a_call")
class ForksWholeSegments(MemoryStore):
    def fork(self, root_id, at, fork_id, events=()):
        super().fork(root_id, min(at + 3 - at % 4, self.info(root_id).last), fork_id, events)


@noticed_by("a_fork_that_is_dropped_leaves_the_rest_of_a_call")
class DropsWhatAForkShared(MemoryStore):
    def drop(self, root_id):
        parent = self._log(root_id).parent
        super().drop(root_id)
        if parent is not None:
            self._logs[parent.root_id].last = 7


@noticed_by("another_holder_continues_a_call")
class TakesWhatIsFenced(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, self.info(root_id).epoch, event)


@noticed_by("a_call_continues_when_the_store_is_opened_again")
class BeginsASegmentAnew(MemoryStore):
    def acquire(self, root_id):
        log = self._log(root_id)
        log.last -= log.last % 4
        del log.events[log.last + 1 :]
        return super().acquire(root_id)


# Listings


class Summarising(MemoryStore):
    """Changes the summaries of logs."""

    def summary(self, root_id):
        return self.seen(super().summary(root_id))

    def find(self, query):
        return map(self.seen, super().find(query))


@noticed_by(
    "logs_are_found_newest_first",
    "any_text_is_a_name",
    "logs_are_found_by_name_and_tags",
    "logs_are_found_by_time",
    "many_logs_are_found",
    "listing_during_writing",
    "a_start_that_can_not_be_read_has_no_name",
)
class ListsTheOldestFirst(MemoryStore):
    def find(self, query):
        return iter([*super().find(query)][::-1] + [summary for summary in super().find(query) if not query.name][:1])


@noticed_by("a_summary_says_what_a_log_is", "a_fork_has_its_own_end")
class BeginsAtTheEnd(Summarising):
    def seen(self, summary):
        return summary._replace(begun=summary.at)


@noticed_by("a_log_without_events_has_no_summary")
class SummarisesAnything(MemoryStore):
    def summary(self, root_id):
        return super().summary(root_id) if self.info(root_id).last >= 0 else None


@noticed_by("the_state_follows_the_end_of_the_root_run")
class EndsWithAnyRun(MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, event)
        if event.name in ENDS:
            self._logs[root_id].end = event
            self._restate(self._logs[root_id])


@noticed_by("a_log_that_is_taken_again_is_running")
class RemembersTheEnd(MemoryStore):
    def append(self, root_id, epoch, event):
        before = self._logs[root_id].end
        super().append(root_id, epoch, event)
        self._logs[root_id].end = self._logs[root_id].end or before
        self._restate(self._logs[root_id])


@noticed_by("a_log_may_begin_late")
class OrdersByTheFirstEvent(MemoryStore):
    def find(self, query):
        return iter(sorted(super().find(query), key=lambda summary: -summary.begun))


@noticed_by("what_was_found_is_found_again")
class FindsItsOwn(JsonlStore):
    def find(self, query):
        return (one for one in super().find(query) if one.info.root_id in {event for event, _ in self._takers})

    def _apply(self, entry):
        outcome = super()._apply(entry)
        if entry.by != self._writers.me:
            self._takers.pop((entry.arguments["root_id"], outcome), None)
        return outcome


@noticed_by("a_listing_names_the_holder")
class NamesNoHolder(Summarising):
    def seen(self, summary):
        return summary._replace(info=summary.info._replace(holder=None))


@noticed_by("parts_say_where_events_are")
class PartsByParents(MemoryStore):
    def parts(self, root_id):
        return [part._replace(first=part.first + 1) for part in super().parts(root_id)]


@noticed_by("a_deep_fork_is_read")
class ReadsTheNearest(MemoryStore):
    def event(self, root_id, seq):
        found = super().event(root_id, seq)
        log = self._logs[root_id]
        if log.base is not None and log.base.base is not None and seq < log.base.base.start:
            raise RunNotFoundError("too far")
        return found
