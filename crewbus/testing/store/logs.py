"""The contract of a store: how a log is opened, grows, is sealed, read and dropped."""

from __future__ import annotations

import queue

import pytest

from crewbus.exceptions import CrewbusError, FencedError, RecordingError, RunIdInUseError, RunNotFoundError
from crewbus.stores import LANDMARKS, MARKS, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begun, heard, sealed, write_and_hear, write_through
from crewbus.testing.store.model import album, picture, stored, write


def _seal_through(store: Store, root_id: str, epoch: int) -> None:
    store.finish(root_id, epoch)
    store.flush(PATIENCE)


class LogContract(StoreCase):
    """What holds of each log by itself."""

    # Writing

    def test_events_come_back_as_they_were_given_in_order(self) -> None:
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
        epoch = begun(store)
        before = list(store.read("a"))
        for seq in (2, 0, 1):
            store.append("a", epoch, stored(seq, data=b"again"))
        store.flush(PATIENCE)
        assert list(store.read("a")) == before
        write_through(store, "a", epoch, 3)

    def test_a_gap_is_refused(self) -> None:
        """A gap raises `RecordingError` and leaves the log as it was."""
        store = self.new()
        epoch = begun(store)
        before = album(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(4))
        assert album(store) == before
        write_through(store, "a", epoch, 3)

    def test_a_log_that_was_never_opened_takes_nothing(self) -> None:
        """A log that is not open raises `RecordingError`, and none comes about."""
        store = self.new()
        with pytest.raises(RecordingError):
            store.append("a", 1, stored(0))
        assert store.roots() == []
        assert store.root_of("a") is None

    def test_an_epoch_that_nobody_was_given_is_refused(self) -> None:
        """Only who holds the log writes it: with the epoch that `begin` or `acquire` gave out last."""
        store = self.new()
        epoch = begun(store)
        before = album(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch + 1, stored(3))
        assert album(store) == before

    def test_a_sealed_log_takes_nothing(self) -> None:
        """`finish` seals a log: what is appended then is refused and leaves it as it was."""
        store = self.new()
        epoch = begun(store)
        store.finish("a", epoch)
        before = album(store)
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(3))
        assert album(store) == before

    def test_an_old_epoch_can_not_seal(self) -> None:
        """Whoever comes with an older epoch is refused with `FencedError`, also to `finish`."""
        first, second = self.pair()
        old = begun(first)
        first.flush(PATIENCE)
        second.revoke("a")
        epoch = second.acquire("a")
        with pytest.raises(FencedError):
            _seal_through(first, "a", old)
        assert not second.info("a").sealed
        write_through(second, "a", epoch, 3)

    def test_what_is_not_open_can_not_be_sealed(self) -> None:
        """Every method raises when it can't do what it says."""
        store = self.new()
        with pytest.raises(CrewbusError):
            store.finish("a", 1)
        assert store.roots() == []

    # Ids

    def test_a_run_is_begun_once(self) -> None:
        """`begin` raises `RunIdInUseError` if the store has that run, whether it goes on or is finished."""
        store = self.new()
        sealed(store)
        begun(store, "b")
        before = album(store)
        for root_id in before:
            with pytest.raises(RunIdInUseError):
                store.begin(root_id)
        assert album(store) == before

    def test_the_id_of_a_nested_run_is_taken_too(self) -> None:
        """The store has the runs that are recorded in another's log."""
        store = self.new()
        begun(store, "a", 5)
        with pytest.raises(RunIdInUseError):
            store.begin("a/nested")
        assert store.roots() == ["a"]

    def test_in_whose_log_a_run_is(self) -> None:
        """`root_of` tells the root run in whose log a run is recorded, or None."""
        store = self.new()
        begun(store, "a", 5)
        sealed(store, "b", 5)
        asked = ["a", "a/nested", "b", "b/nested", "c"]
        assert [store.root_of(run_id) for run_id in asked] == ["a", "a", "b", "b", None]

    def test_roots_are_listed_oldest_first(self) -> None:
        """`roots` lists the ids of all recorded root runs, oldest first."""
        store = self.new()
        assert store.roots() == []
        for root_id in ("c", "a", "b"):
            sealed(store, root_id)
        begun(store, "0")
        assert store.roots() == ["c", "a", "b", "0"]
        store.drop("a")
        assert store.roots() == ["c", "b", "0"]

    # Reading

    def test_reading_begins_after_a_number(self) -> None:
        """`read` gives the events numbered above ``after``."""
        store = self.new()
        begun(store, "a", 5)
        for after in range(-1, 7):
            assert [event.seq for event in store.read("a", after)] == list(range(after + 1, 5))

    def test_a_log_may_be_empty(self) -> None:
        """A log without events is one all the same; its last number is -1."""
        store = self.new()
        store.begin("a")
        assert list(store.read("a")) == list(store.landmarks("a")) == []
        assert (store.roots(), store.info("a").last) == (["a"], -1)

    def test_one_event_by_its_number(self) -> None:
        """`event` gives one event of a log, and raises `RunNotFoundError` where there is no such number."""
        store = self.new()
        begun(store, "a", 7)
        assert [store.event("a", seq) for seq in range(7)] == list(store.read("a"))
        for seq in (-1, 7):
            with pytest.raises(RunNotFoundError):
                store.event("a", seq)

    def test_landmarks_are_the_types_that_are_named_so(self) -> None:
        """`landmarks` gives what `read` does, of the types that `LANDMARKS` names only."""
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

    def test_marks_are_the_types_that_are_named_so_last_first(self) -> None:
        """`marks` gives the events of the types that `MARKS` names, the last first."""
        store = self.new()
        assert MARKS <= LANDMARKS
        names = ["test.Event", *sorted(MARKS), "crewbus.StepStarted", *sorted(MARKS), "test.Event"]
        epoch = store.begin("a")
        assert list(store.marks("a")) == []
        for seq, name in enumerate(names):
            store.append("a", epoch, stored(seq, name=name))
        assert list(store.marks("a")) == [event for event in store.read("a") if event.name in MARKS][::-1]

    def test_what_is_not_there_can_not_be_read_or_taken(self) -> None:
        """Where there is no such log, `RunNotFoundError` is raised, and none comes about."""
        store = self.new()
        sealed(store, "b", 5)
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

    def test_how_a_log_stands_through_its_life(self) -> None:
        """`info` tells the epoch, the last number, whether the log is sealed, and who holds it."""
        store = self.new()
        epoch, seen = begun(store), []

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
        assert store.info("a")[6:] == (False, None, None)

    # Dropping

    def test_what_was_dropped_is_gone_and_its_ids_are_free(self) -> None:
        """`drop` forgets a log, and with it which runs were in it."""
        store = self.new()
        sealed(store, "a", 5)
        sealed(store, "b", 5)
        kept = picture(store, "b")
        store.drop("a")
        assert [store.root_of(run_id) for run_id in ("a", "a/nested")] == [None, None]
        with pytest.raises(RunNotFoundError):
            list(store.read("a"))
        assert album(store) == {"b": kept}
        epoch = store.begin("a/nested")
        write_through(store, "a/nested", epoch, 0)
        begun(store, "a", 2)
        assert [event.seq for event in store.read("a")] == [0, 1]

    def test_a_log_that_is_alive_is_not_dropped(self) -> None:
        """`drop` raises `RecordingError` while the log is alive; one that nobody holds is dropped, sealed or not."""
        first, second = self.pair()
        epoch = begun(first)
        first.flush(PATIENCE)
        before = album(first)
        for store in (first, second):
            with pytest.raises(RecordingError):
                store.drop("a")
        assert album(first) == before
        first.release("a", epoch)
        second.drop("a")
        assert second.roots() == []

    # Flushing and closing

    def test_flush_returns_when_all_is_written(self) -> None:
        """`flush` returns when everything appended before is written, also if that is nothing."""
        store, other = self.pair()
        store.flush(PATIENCE)
        epoch = begun(store, "a", 50)
        store.flush(PATIENCE)
        assert [event.seq for event in other.read("a")] == list(range(50))
        write_through(store, "a", epoch, 50)
        assert other.info("a").last == 50

    def test_who_asks_is_told_once_when_it_is_written(self) -> None:
        """`when_written` calls ``notify`` once, with None, when all that was appended before is durable."""
        store, other = self.pair()
        epoch, told = begun(store), queue.SimpleQueue[BaseException | None]()
        store.when_written("a", told.put)
        assert heard(told) is None
        write_and_hear(store, "a", epoch, 3)
        write_and_hear(store, "a", epoch, 4, 0)
        assert other.info("a").last == 3
        store.flush(PATIENCE)
        assert told.empty()

    def test_closing_lets_go(self) -> None:
        """`close` flushes and lets go of what is held: who held it writes no more; again it does nothing."""
        store = self.new()
        epoch = begun(store)
        sealed(store, "b")
        store.close()
        store.close()
        with pytest.raises(RecordingError):
            store.append("a", epoch, stored(3))

    def test_what_was_closed_can_be_opened_again(self) -> None:
        """`close` flushes, and releases the leases on logs that are still open."""
        self.needs_survival()
        store = self.new()
        begun(store, "a", 30)
        sealed(store, "b")
        store.close()
        again = self.new()
        assert again.roots() == ["a", "b"]
        assert not again.info("a").alive
        assert again.info("b").sealed
        write_through(again, "a", again.acquire("a"), 30)
        assert [event.seq for event in again.read("a")] == list(range(31))
