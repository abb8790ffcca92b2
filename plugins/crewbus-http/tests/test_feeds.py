"""Feeds: followers of a run share one reader, a slow one costs a window, and none misses or repeats a frame."""

from __future__ import annotations

import asyncio

import pytest

import crewbus
from crewbus_http.feeds import BATCH, WINDOW, Feeds
from crewbus_http.frames import Frame

KB = b'{"x":"' + 992 * b"x" + b'"}'
MANY = 4 * WINDOW // len(KB)


class Record:
    """What streams read: frames whose cursors are their numbers."""

    def __init__(self, count, ends=True):
        events = [crewbus.Chunk("x") for _ in range(count)]
        events += [crewbus.RunFinished()] if ends else []
        self.envelopes = [crewbus.Envelope(event, "r", seq, None, 0.0) for seq, event in enumerate(events)]
        self.more = asyncio.Event()
        self.streams = []
        self.feeds = Feeds(self.open, self, self.changed)

    async def open(self, run_id, after):
        if run_id != "r":
            raise crewbus.RunNotFoundError(run_id)
        stream = Stream(self, -1 if after == "start" else int(after))
        self.streams.append(stream)
        return stream

    async def changed(self):
        raise AssertionError("no run was interrupted")

    def frame(self, cursor, envelope):
        return Frame(cursor, envelope, KB)


class Stream:
    """A stream of that record."""

    def __init__(self, record, at):
        self.record = record
        self.at = at
        self.is_open = True

    @property
    def cursor(self):
        return str(self.at)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.is_open = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        while self.at + 1 == len(self.record.envelopes):
            if self.at >= 0 and isinstance(self.record.envelopes[self.at].event, crewbus.RunEnded):
                raise StopAsyncIteration
            await self.record.more.wait()
            self.record.more.clear()
        self.at += 1
        return self.record.envelopes[self.at]


async def settled():
    """All that can go on without a follower has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def taken(place):
    """The cursors of all that comes, to the end."""
    found = []
    while place.goes_on():
        found += [frame.cursor for frame in await place.next(60)]
    return found


def played(program):
    """Run a program on a loop of its own."""
    asyncio.run(asyncio.wait_for(program(), 60))


def numbers(first, count):
    return [str(number) for number in range(first, count)]


def test_followers_of_a_run_share_one_reader_and_its_frames():
    async def program():
        record = Record(6, ends=False)
        places = [await record.feeds.follow("r", "start") for _ in range(3)]
        found = [await place.next(60) for place in places]
        assert [frame.cursor for frame in found[0]] == numbers(0, 6)
        assert all(one is other for frames in found for one, other in zip(frames, found[0], strict=True))
        late = await record.feeds.follow("r", "2")
        assert [frame.cursor for frame in await late.next(60)] == numbers(3, 6)
        assert len(record.streams) == 1
        for place in (*places, late):
            place.close()

    played(program)


def test_a_feed_reads_no_further_ahead_than_its_fastest_follower_needs():
    async def program():
        record = Record(MANY)
        place = await record.feeds.follow("r", "start")
        await settled()
        assert BATCH <= record.feeds.size <= BATCH + len(KB)
        assert await taken(place) == numbers(0, MANY + 1)
        assert place.has_ended

    played(program)


def test_a_slow_follower_holds_up_nobody_misses_nothing_and_meets_the_others_again():
    async def program():
        record = Record(MANY, ends=False)
        slow, fast = [await record.feeds.follow("r", "start") for _ in range(2)]
        found = []
        while len(found) < MANY:
            found += [frame.cursor for frame in await fast.next(60)]
            assert record.feeds.size <= WINDOW + len(KB)
        assert found == numbers(0, MANY)
        late = []
        while len(late) < MANY:
            late += [frame.cursor for frame in await slow.next(60)]
            assert record.feeds.size <= 2 * (WINDOW + len(KB))
        assert late == found
        assert await slow.next(0) == []  # now it stands where the other feed is
        await settled()
        assert [stream.is_open for stream in record.streams] == [True, False]
        slow.close()
        fast.close()
        await settled()
        assert not any(stream.is_open for stream in record.streams)
        assert record.feeds.size == 0

    played(program)


def test_a_follower_that_has_nothing_to_take_waits_and_no_longer_than_it_says():
    async def program():
        record = Record(0, ends=False)
        place = await record.feeds.follow("r", "start")
        assert await place.next(0) == []
        assert await place.next(0.01) == []
        waiting = asyncio.create_task(place.next(60))
        await settled()
        record.envelopes.append(crewbus.Envelope(crewbus.Chunk("x"), "r", 0, None, 0.0))
        record.more.set()
        assert [frame.cursor for frame in await waiting] == ["0"]
        place.close()

    played(program)


def test_followers_are_let_go_when_the_server_stops():
    async def program():
        record = Record(0, ends=False)
        place = await record.feeds.follow("r", "start")
        waiting = asyncio.create_task(place.next(60))
        await settled()
        record.feeds.close()
        assert await waiting == []
        assert (place.is_closed, place.has_ended) == (True, False)
        late = await record.feeds.follow("r", "start")
        assert await taken(late) == []
        await settled()
        assert not any(stream.is_open for stream in record.streams)

    played(program)


def test_what_can_not_be_followed_says_so_to_all_who_come():
    async def program():
        record = Record(0)
        for _ in range(2):
            with pytest.raises(crewbus.RunNotFoundError):
                await record.feeds.follow("none", "start")
        with pytest.raises(ValueError, match="invalid literal"):
            await record.feeds.follow("r", "x")
        assert record.feeds.size == 0

    played(program)


def test_a_follower_that_comes_behind_the_end_sees_that_it_is_the_end():
    async def program():
        record = Record(3)
        place = await record.feeds.follow("r", "3")
        assert await taken(place) == []
        assert place.has_ended

    played(program)
