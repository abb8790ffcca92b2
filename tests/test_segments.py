"""Segments: nothing is lost when events that are alike are kept as one entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewbus.stores import Segment, StoredEvent, fold

AT = 1_700_000_000.25


def chunk(seq, data=b'{"text":"word"}', at=None, **fields):
    event = StoredEvent("a", seq, "a:0", AT + seq * 0.02 if at is None else at, None, 1, "crewbus.Chunk", 1, data)
    return event._replace(**fields)


def unfolded(segments):
    return [event for segment in segments for event in segment.events()]


def again(segment):
    """What a store gets back of a segment that it kept."""
    return Segment.load(segment.first._replace(data=segment.data), segment.length)


datas = st.one_of(
    st.builds(b'{"text":"%s"}'.__mod__, st.binary(max_size=9)),
    st.sampled_from([b"", b"{}", b"\n", b"}", b":", b'":"', b'{"text":"', b'{"text":"}', b'{"n":1}', b'{"n":12}']),
    st.binary(max_size=12),
)
times = st.one_of(st.floats(AT, AT + 60), st.floats(allow_nan=False), st.sampled_from([AT, 0.0, 2.0**30]))


@given(st.lists(st.tuples(datas, times, st.integers(1, 2), st.sampled_from("abc")), max_size=40), st.integers(0, 40))
def test_events_come_back_from_segments_however_they_are_cut(fields, cut):
    events = [
        chunk(seq, data, at, attempt=attempt, source=source) for seq, (data, at, attempt, source) in enumerate(fields)
    ]
    first = fold(events[:cut])
    more = fold(events[cut:], first[-1] if first else None)
    whole = [*first, *(segment for segment in more if segment not in first)]
    assert unfolded(whole) == unfolded(fold(events)) == events
    assert [again(segment).events() for segment in whole] == [segment.events() for segment in whole]
    assert [segment.last for segment in whole] == [segment.events()[-1].seq for segment in whole]


def test_chunks_of_a_call_are_one_segment():
    events = [chunk(seq, b'{"text":"word%d"}' % seq) for seq in range(50)]
    (segment,) = fold(events)
    assert (segment.length, segment.last, segment.events()) == (50, 49, events)
    assert len(segment.data) == len(b'{"text":"\n"}\n') + sum(len(f"word{seq}") for seq in range(50)) + 49 * 5


def test_the_form_of_a_segment_stays():
    (segment,) = fold([chunk(3), chunk(4, b'{"text":""}'), chunk(5, b'{"text":"\xc3\xbc"}')])
    assert segment.data == b'{"text":"\n"}\nword\n\n\xc3\xbc' + (83886).to_bytes(4, "little") + (167772).to_bytes(
        4, "little"
    )
    assert fold([chunk(7)])[0].data == b'{"text":"word"}'


def test_a_segment_is_bounded():
    counts = [segment.length for segment in fold([chunk(seq) for seq in range(200)])]
    assert counts == [64, 64, 64, 8]
    large = fold([chunk(seq, b'{"text":"%s"}' % (b"x" * 500)) for seq in range(9)])
    assert [segment.length for segment in large] == [4, 4, 1]


def test_a_segment_to_which_nothing_can_be_added_is_left_out():
    (before,) = fold([chunk(0), chunk(1)])
    (new,) = fold([chunk(2, name="tests.Noted")], before)
    assert new.first == chunk(2, name="tests.Noted")
    assert before.length == 2
    grown, new = fold([chunk(2), chunk(3, name="tests.Noted")], before)
    assert grown is before
    assert (grown.length, new.length) == (3, 1)
    assert fold([], before) == []


@pytest.mark.parametrize("name", ["crewbus.CallStarted", "crewbus.StepFinished", "crewbus.CheckpointSaved"])
def test_landmarks_are_single(name):
    assert [segment.length for segment in fold([chunk(seq, name=name) for seq in range(3)])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("data", "length"),
    [(b"", 2), (b"x", 2), (b"a\nb\nc" + bytes(4), 2), (b"ab\n\nx" + bytes(4), 2), (b"x", 0), (b"x", -1)],
)
def test_data_of_another_number_of_events_are_refused(data, length):
    with pytest.raises(ValueError, match="are not the data of"):
        Segment.load(chunk(0, data), length)


@pytest.mark.parametrize(
    ("datas", "frame"),
    [
        ([b'{"text":"a","kind":"text"}', b'{"text":"b","kind":"text"}'], (b'{"text":"', b'","kind":"text"}')),
        ([b'{"text":"\\"a","kind":"text"}', b'{"text":"b","kind":"text"}'], (b'{"text":"', b'","kind":"text"}')),
        ([b'{"n":1,"of":9}', b'{"n":2,"of":9}'], (b'{"n":', b',"of":9}')),
        ([b'{"n":1,"of":9}', b'{"n":2,"of":8}'], (b'{"n":', b"}")),
        ([b'{"n":[1]}', b'{"n":[2]}'], (b'{"n":', b"}")),
        ([b'{"n":1}', b'{"m":1}'], (b"", b"")),
        ([b"", b"12"], (b"", b"")),
        ([b"[1]", b"[2]"], (b"", b"")),
    ],
)
def test_what_all_have_is_kept_once(datas, frame):
    events = [chunk(seq, data) for seq, data in enumerate(datas)]
    (segment,) = fold(events)
    assert segment.data.split(b"\n")[:2] == [*frame]
    assert again(segment).events() == segment.events() == events
