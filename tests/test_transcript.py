"""The text of a stream, however long it is and whatever is taken back of it."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crewbus
from crewbus import Chunk, Envelope, Retracted
from crewbus.streams import transcript

PARENTS = ["r:0", "r:1", None]

chunks = st.tuples(st.sampled_from(PARENTS), st.text(max_size=3))
retractions = st.tuples(st.integers(0, 60), st.lists(st.sampled_from(PARENTS[:2]), unique=True).map(tuple))


@pytest.fixture(params=[2, 3, 7, 1024])
def folded(request, monkeypatch):
    monkeypatch.setattr(transcript, "FOLDED", request.param)


def received(events):
    """The envelopes of chunks ``(parent, text)`` and retractions ``(since, parents)``, numbered."""
    for number, (one, other) in enumerate(events):
        if isinstance(one, int):
            yield Envelope(Retracted(one, "", other), "r", number, None, 0.0)
        else:
            yield Envelope(Chunk(other), "r", number, one, 0.0)


def expected(envelopes):
    """Their text, by the definition."""
    kept = []
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, Chunk):
            kept.append(envelope)
        else:
            kept = [one for one in kept if one.seq < event.since or not event.covers(one.seq, one.parent)]
    return "".join(one.event.text for one in kept)


@pytest.mark.usefixtures("folded")
@given(st.lists(st.one_of(chunks, retractions), max_size=60))
def test_retracted_text_is_not_in_the_text(events):
    envelopes = list(received(events))
    found = transcript.Transcript()
    for envelope in envelopes:
        found.add([envelope])
    assert found.text() == expected(envelopes)


def test_a_retraction_of_text_that_was_joined():
    """Beyond what is kept apart."""
    with crewbus.Bus(entry_points=False) as bus, bus.run() as run, bus.subscribe(run.id, bound=10_000) as stream:
        for number in range(3000):
            run.chunk(f"{number} ")
        with pytest.raises(KeyError), run.attempt():
            for number in range(3000):
                run.chunk(f"again {number} ")
            raise KeyError
        run.chunk("end")
        run.finish()
        assert stream.text() == "".join(f"{number} " for number in range(3000)) + "end"


def test_a_long_text_takes_little_more_than_itself():
    found = transcript.Transcript()
    tracemalloc.start()
    try:
        for number in range(20_000):
            found.add([Envelope(Chunk(f"{number:6}"), "r", number, "r:0", 0.0)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.text()) == 120_000
    assert taken < 20_000 * 40
