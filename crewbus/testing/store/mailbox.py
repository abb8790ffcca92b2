"""The contract of a store: messages to a log."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Final

import pytest

from crewbus.exceptions import RunEndedError, RunNotFoundError
from crewbus.stores import Claim, Posted
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, call_concurrently, write_and_flush
from crewbus.testing.store.model import all_logs, first_events

SENDERS: Final = 8
STRANGE: Final = ("", "ü\x00\n", "x" * 10_000)
"""Texts that a channel or key may be."""


class MailboxContract(StoreCase):
    """What a store does with messages."""

    def test_messages_come_in_order(self) -> None:
        """`post` numbers the messages of a log from 0, whoever posts; `posted` gives those above a number."""
        store, other = self.pair_sharing_work()
        begin_log(store)
        begin_log(store, "b")
        before = time.time()
        sent = [("u", b"0", None), ("v", b"1", "k"), ("u", b"", None), ("u", b"0", None)]
        numbers = [(other if turn % 2 else store).post("a", *message) for turn, message in enumerate(sent)]
        assert numbers == [0, 1, 2, 3]
        found = other.posted("a")
        assert found == store.posted("a")
        assert [tuple(message[:4]) for message in found] == [(n, *message) for n, message in enumerate(sent)]
        assert [type(message) for message in found] == [Posted] * 4
        assert all(before - 60 <= message.at <= time.time() + 60 for message in found)
        for after in range(-1, 6):
            assert store.posted("a", after) == found[after + 1 :]
        assert (store.posted("b"), store.post("b", "u", b"")) == ([], 0)

    def test_the_messages_of_many_logs_come_at_once(self) -> None:
        """`mail` gives what `posted` would for each log that has any above its number, held or not, wherever it is."""
        store, other = self.pair_sharing_work()
        for root_id in ("a", "b", "c", "idle"):
            begin_log(store, root_id)
        store.flush(PATIENCE)
        other.create("d", first_events("d", 1))
        store.begin("unwritten")
        for root_id in "aabcd":
            other.post(root_id, "u", root_id.encode())
        after = {"a": 0, "b": -1, "c": 0, "d": -1, "idle": -1, "unwritten": -1, "nobody": -1}
        expected = {root_id: store.posted(root_id, after[root_id]) for root_id in "abd"}
        assert [len(messages) for messages in expected.values()] == [1, 1, 1]
        assert store.mail(after) == other.mail(after) == expected
        assert store.mail({}) == {}
        assert store.mail(dict.fromkeys("abcd", 1)) == {}

    def test_messages_are_any_bytes_on_any_channel(self) -> None:
        """Channels and keys are any texts, and data any bytes."""
        store, other = self.pair_sharing_work()
        begin_log(store)
        sent = [(text, bytes(range(256)), text) for text in STRANGE]
        for message in sent:
            store.post("a", *message)
        assert [tuple(message[1:4]) for message in other.posted("a")] == sent

    def test_a_message_with_a_key_is_posted_once(self) -> None:
        """`post` with a channel and key that are there changes nothing, and returns the number of the first."""
        store = self.new_sharing_work()
        epoch = begin_log(store)
        assert [store.post("a", "u", b"1", "k"), store.post("a", "u", b"2", "l")] == [0, 1]
        assert [store.post("a", "u", b"3", "k"), store.post("a", "v", b"4", "k")] == [0, 2]
        assert [message.data for message in store.posted("a")] == [b"1", b"2", b"4"]
        store.finish("a", epoch)
        assert store.post("a", "u", b"5", "l") == 1
        assert len(store.posted("a")) == 3

    def test_concurrent_senders_lose_no_message(self) -> None:
        """Each message gets a number of its own; of those with the same key one is kept."""
        store = self.new_sharing_work()
        begin_log(store)
        numbers = call_concurrently(*(partial(store.post, "a", "u", b"%d" % n) for n in range(SENDERS)))
        assert sorted(numbers) == list(range(SENDERS))
        assert [store.posted("a")[number].data for number in numbers] == [b"%d" % n for n in range(SENDERS)]
        same = call_concurrently(*(partial(store.post, "a", "u", b"%d" % n, "k") for n in range(SENDERS)))
        assert same == [SENDERS] * SENDERS
        assert len(store.posted("a")) == SENDERS + 1

    def test_a_sealed_log_takes_no_messages(self) -> None:
        """`post` raises `RunEndedError`; once the log is acquired again, it takes messages."""
        store = self.new_sharing_work()
        epoch = begin_log(store)
        store.post("a", "u", b"1")
        store.finish("a", epoch)
        with pytest.raises(RunEndedError):
            store.post("a", "u", b"2")
        store.acquire("a")
        assert store.post("a", "u", b"3") == 1

    def test_a_log_that_is_not_there_has_no_mailbox(self) -> None:
        """`post` and `posted` raise `RunNotFoundError`, for nested runs too."""
        store = self.new_sharing_work()
        begin_log(store, count=5)
        for root_id in ("b", "a/nested"):
            with pytest.raises(RunNotFoundError):
                store.post(root_id, "u", b"")
            with pytest.raises(RunNotFoundError):
                store.posted(root_id)

    def test_a_mailbox_belongs_to_one_log(self) -> None:
        """A fork begins with an empty one, and dropping a log drops its mailbox."""
        store = self.new_sharing_work()
        store.finish("a", begin_log(store))
        store.acquire("a")
        store.post("a", "u", b"1", "k")
        store.fork("a", 1, "b")
        assert (store.posted("b"), store.post("b", "u", b"2", "k")) == ([], 0)
        assert [message.data for message in store.posted("a")] == [b"1"]
        store.drop("b")
        with pytest.raises(RunNotFoundError):
            store.posted("b")
        begin_log(store, "b")
        assert (store.posted("b"), store.post("b", "u", b"3", "k")) == ([], 0)

    def test_a_message_changes_nothing_else(self) -> None:
        """The events, the epoch and the holder of a log stay."""
        store = self.new_sharing_work()
        epoch = begin_log(store)
        before = all_logs(store)["a"]
        store.post("a", "u", b"1")
        assert all_logs(store)["a"]._replace(mail=[]) == before
        write_and_flush(store, "a", epoch, 3)

    def test_a_message_ends_the_wait_of_a_log(self) -> None:
        """A log that waits is due at once when a message arrives, also if it arrived while the log was held; not if
        it was there when the log was taken."""
        store = self.new_sharing_work()
        store.create("a", first_events("a"), math.inf)
        store.post("a", "u", b"1", "k")
        assert store.info("a").due is None
        assert store.claim(Claim()) == [("a", 1)]
        store.release("a", 1, math.inf)
        assert store.claim(Claim()) == []
        store.post("a", "u", b"2", "k")  # it is there already
        assert store.info("a").due == math.inf
        store.post("a", "u", b"3")
        assert store.claim(Claim()) == [("a", 2)]
        store.post("a", "u", b"4")
        store.release("a", 2, math.inf)
        assert store.info("a").due is None
        assert store.claim(Claim()) == [("a", 3)]
