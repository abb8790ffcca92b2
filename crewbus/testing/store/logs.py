"""The contract of a store: how a log is opened, grows, is sealed, read and dropped."""

from __future__ import annotations

import contextlib
import queue

import pytest

from crewbus.exceptions import CrewbusError, FencedError, RecordingError, RunIdInUseError, RunNotFoundError
from crewbus.stores import LANDMARKS, MARKS, Store
from crewbus.testing.store.case import (
    PATIENCE,
    StoreCase,
    begin_log,
    wait_for_notification,
    write_and_flush,
    write_and_wait,
    write_finished_log,
)
from crewbus.testing.store.model import all_logs, log_state, stored, write


def _finish_and_flush(store: Store, root_id: str, epoch: int) -> None:
    store.finish(root_id, epoch)
    store.flush(PATIENCE)


class LogContract(StoreCase):
    """What a store does with a single log."""

    # Writing

    def test_events_come_back_unchanged_in_order(self) -> None:
        """A log grows by `append` in the order of ``seq``, and `read` gives its events, in order."""
        store, events = self.new(), [stored(seq, data=b'{"n":%d}' % seq) for seq in range(20)]
        epoch = store.begin("a")
        for event in events:
            store.append("a", epoch, event)
        assert list(store.read("a")) == events
        store.finish("a", epoch)
        assert list(store.read("a")) == events

    def test_a_repeated_number_is_ignored(self) -> None:
        """A repeated ``seq`` is ignored."""
        store = self.new()
        epoch = begin_log(store)
        before = list(store.read("a"))
        for seq in (2, 0, 1):
            store.append("a", epoch, stored(seq, data=b"again"))
        store.flush(PATIENCE)
        assert list(store.read("a")) == before
        write_and_flush(store, "a", epoch, 3)

    def test_a_gap_is_refused(self) -> None:
        """A gap raises `RecordingError` and leaves the log as it was."""
        store = self.new()
        epoch = begin_log(store)
        before = all_logs(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(4))
        assert all_logs(store) == before
        write_and_flush(store, "a", epoch, 3)

    def test_a_log_that_was_never_begun_takes_nothing(self) -> None:
        """Appending to a log that was never begun raises `RecordingError`, and makes no log."""
        store = self.new()
        with pytest.raises(RecordingError):
            store.append("a", 1, stored(0))
        assert store.roots() == []
        assert store.root_of("a") is None

    def test_an_unknown_epoch_is_refused(self) -> None:
        """Only the holder writes a log, with the epoch that `begin` or `acquire` returned last."""
        store = self.new()
        epoch = begin_log(store)
        before = all_logs(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch + 1, stored(3))
        assert all_logs(store) == before

    def test_a_sealed_log_takes_nothing(self) -> None:
        """`finish` seals a log: later appends are refused, and leave it unchanged."""
        store = self.new()
        epoch = begin_log(store)
        store.finish("a", epoch)
        before = all_logs(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(3))
        assert all_logs(store) == before

    def test_an_old_epoch_can_not_finish(self) -> None:
        """`finish` with an older epoch raises `FencedError`."""
        first, second = self.pair()
        old = begin_log(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        with pytest.raises(FencedError):
            _finish_and_flush(first, "a", old)
        assert not second.info("a").sealed
        write_and_flush(second, "a", epoch, 3)

    def test_a_missing_log_can_not_be_finished(self) -> None:
        """`finish` raises if there is no such log."""
        store = self.new()
        with pytest.raises(CrewbusError):
            store.finish("a", 1)
        assert store.roots() == []

    # Ids

    def test_a_run_is_begun_once(self) -> None:
        """`begin` raises `RunIdInUseError` if the store has that run, whether live or finished."""
        store = self.new()
        write_finished_log(store)
        begin_log(store, "b")
        before = all_logs(store)
        for root_id in before:
            with pytest.raises(RunIdInUseError):
                store.begin(root_id)
        assert all_logs(store) == before

    def test_a_log_is_opened_once(self) -> None:
        """`open_log` does as `begin`; that the run is recorded already is raised by `confirm` at the latest."""
        store, other = self.pair()
        write_finished_log(store)
        before = all_logs(store)
        with pytest.raises(RunIdInUseError):
            other.confirm("a", other.open_log("a"))
        with contextlib.suppress(RunIdInUseError):  # by then it may have been raised
            other.flush(PATIENCE)
        assert all_logs(store) == before
        write_and_flush(other, "b", other.open_log("b"), 0)
        assert [event.seq for event in store.read("b")] == [0]

    def test_the_id_of_a_nested_run_is_in_use_too(self) -> None:
        """`begin` refuses the id of a run that is recorded in another run's log."""
        store = self.new()
        begin_log(store, "a", 5)
        with pytest.raises(RunIdInUseError):
            store.begin("a/nested")
        assert store.roots() == ["a"]

    def test_root_of_names_the_log_of_a_run(self) -> None:
        """`root_of` returns the root run whose log contains a run, or None."""
        store = self.new()
        begin_log(store, "a", 5)
        write_finished_log(store, "b", 5)
        asked = ["a", "a/nested", "b", "b/nested", "c"]
        assert [store.root_of(run_id) for run_id in asked] == ["a", "a", "b", "b", None]

    def test_roots_are_listed_oldest_first(self) -> None:
        """`roots` lists the ids of all recorded root runs, oldest first."""
        store = self.new()
        assert store.roots() == []
        for root_id in ("c", "a", "b"):
            write_finished_log(store, root_id)
        begin_log(store, "0")
        assert store.roots() == ["c", "a", "b", "0"]
        store.drop("a")
        assert store.roots() == ["c", "b", "0"]

    # Reading

    def test_reading_begins_after_a_number(self) -> None:
        """`read` gives the events numbered above ``after``."""
        store = self.new()
        begin_log(store, "a", 5)
        for after in range(-1, 7):
            assert [event.seq for event in store.read("a", after)] == list(range(after + 1, 5))

    def test_a_log_may_be_empty(self) -> None:
        """A log may have no events; its last number is -1."""
        store = self.new()
        store.begin("a")
        assert list(store.read("a")) == list(store.landmarks("a")) == []
        assert (store.roots(), store.info("a").last) == (["a"], -1)

    def test_one_event_by_its_number(self) -> None:
        """`event` gives one event of a log, and raises `RunNotFoundError` where there is no such number."""
        store = self.new()
        begin_log(store, "a", 7)
        assert [store.event("a", seq) for seq in range(7)] == list(store.read("a"))
        for seq in (-1, 7):
            with pytest.raises(RunNotFoundError):
                store.event("a", seq)

    def test_landmarks_are_the_landmark_events(self) -> None:
        """`landmarks` gives the events of the types in `LANDMARKS`, as `read` does."""
        store = self.new()
        names = [name for landmark in sorted(LANDMARKS) for name in ("test.Event", landmark, landmark + "s")]
        epoch = store.begin("a")
        for seq, name in enumerate(names):
            store.append("a", epoch, stored(seq, name=name))
        found = [event for event in store.read("a") if event.name in LANDMARKS]
        assert list(store.landmarks("a")) == found
        assert len(found) == len(LANDMARKS)
        for after in (0, 1, 7, len(names) - 2, len(names)):
            assert list(store.landmarks("a", after)) == [event for event in found if event.seq > after]

    def test_marks_come_last_first(self) -> None:
        """`marks` gives the events of the types in `MARKS`, last first."""
        store = self.new()
        assert MARKS <= LANDMARKS
        names = ["test.Event", *sorted(MARKS), "crewbus.StepStarted", *sorted(MARKS), "test.Event"]
        epoch = store.begin("a")
        assert list(store.marks("a")) == []
        for seq, name in enumerate(names):
            store.append("a", epoch, stored(seq, name=name))
        assert list(store.marks("a")) == [event for event in store.read("a") if event.name in MARKS][::-1]

    def test_a_missing_log_can_not_be_used(self) -> None:
        """If there is no such log, `RunNotFoundError` is raised, and no log is made."""
        store = self.new()
        write_finished_log(store, "b", 5)
        for missing in ("a", "b/nested"):
            for call in (
                lambda run: list(store.read(run)),
                lambda run: list(store.landmarks(run)),
                lambda run: store.event(run, 0),
                store.info,
                store.acquire,
                store.drop,
                lambda run: store.fork(run, 0, "c"),
            ):
                with pytest.raises(RunNotFoundError):
                    call(missing)
        assert store.roots() == ["b"]

    def test_info_follows_the_life_of_a_log(self) -> None:
        """`info` has the epoch, the last number, whether the log is sealed, and its holder."""
        store = self.new()
        epoch, seen = begin_log(store), []

        def look() -> None:
            info = store.info("a")
            assert info[0] == "a"
            assert (info.holder is not None) == info.alive
            seen.append((info.epoch, info.last, info.sealed, info.alive))

        look()
        write(store, "a", epoch, 3)
        look()
        store.finish("a", epoch)
        look()
        epoch = store.acquire("a")
        look()
        write(store, "a", epoch, 4)
        store.release("a", epoch)
        look()
        assert seen == [
            (1, 2, False, True),
            (1, 3, False, True),
            (1, 3, True, False),
            (2, 3, False, True),
            (2, 4, False, False),
        ]
        assert store.info("a")[6:9] == (False, None, None)

    # Dropping

    def test_a_dropped_log_is_gone_and_its_ids_are_free(self) -> None:
        """`drop` deletes a log, and frees the ids of its runs."""
        store = self.new()
        write_finished_log(store, "a", 5)
        write_finished_log(store, "b", 5)
        kept = log_state(store, "b")
        store.drop("a")
        assert [store.root_of(run_id) for run_id in ("a", "a/nested")] == [None, None]
        with pytest.raises(RunNotFoundError):
            list(store.read("a"))
        assert all_logs(store) == {"b": kept}
        epoch = store.begin("a/nested")
        write_and_flush(store, "a/nested", epoch, 0)
        begin_log(store, "a", 2)
        assert [event.seq for event in store.read("a")] == [0, 1]

    def test_a_live_log_is_not_dropped(self) -> None:
        """`drop` raises `RecordingError` while the log is alive; one without a holder can be dropped, sealed or not."""
        first, second = self.pair()
        epoch = begin_log(first)
        first.flush(PATIENCE)
        before = all_logs(first)
        for store in (first, second):
            with pytest.raises(RecordingError):
                store.drop("a")
        assert all_logs(first) == before
        first.release("a", epoch)
        second.drop("a")
        assert second.roots() == []

    # Flushing and closing

    def test_flush_returns_when_all_is_written(self) -> None:
        """`flush` returns when everything appended before is written, or at once if nothing was."""
        store, other = self.pair()
        store.flush(PATIENCE)
        epoch = begin_log(store, "a", 50)
        store.flush(PATIENCE)
        assert [event.seq for event in other.read("a")] == list(range(50))
        write_and_flush(store, "a", epoch, 50)
        assert other.info("a").last == 50

    def test_when_written_notifies_once(self) -> None:
        """`when_written` calls ``notify`` once, with None, when all that was appended before is durable."""
        store, other = self.pair()
        epoch, notified = begin_log(store), queue.SimpleQueue[BaseException | None]()
        store.when_written("a", notified.put)
        assert wait_for_notification(notified) is None
        write_and_wait(store, "a", epoch, 3)
        write_and_wait(store, "a", epoch, 4, 0)
        assert other.info("a").last == 3
        store.flush(PATIENCE)
        assert notified.empty()

    def test_closing_releases_held_logs(self) -> None:
        """`close` flushes and releases the logs that are held; appends are refused then. Closing again does nothing."""
        store = self.new()
        epoch = begin_log(store)
        write_finished_log(store, "b")
        store.close()
        store.close()
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(3))

    def test_a_closed_store_can_be_opened_again(self) -> None:
        """`close` flushes, and releases the leases on logs that are still open."""
        self.skip_unless_survives()
        store = self.new()
        begin_log(store, "a", 30)
        write_finished_log(store, "b")
        store.close()
        again = self.new()
        assert again.roots() == ["a", "b"]
        assert not again.info("a").alive
        assert again.info("b").sealed
        write_and_flush(again, "a", again.acquire("a"), 30)
        assert [event.seq for event in again.read("a")] == list(range(31))
