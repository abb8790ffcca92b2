"""The store keeps what every store promises; and whatever bytes its file has, they give a record or an error."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

import crewbus
from crewbus.stores import StoredEvent
from crewbus.testing import StoreContract
from crewbus_jsonl import JsonlStore


class TestJsonlStore(StoreContract):
    survives = True

    def open(self):
        return JsonlStore(self.path / "records.jsonl")

    def opener(self):
        return f"from crewbus_jsonl import JsonlStore; store = JsonlStore({str(self.path / 'records.jsonl')!r})"


def stored(seq, data=b'{"text":"x"}'):
    return StoredEvent("a", seq, None, 1.5, "agent", 1, "crewbus.Chunk", 1, data)


@pytest.fixture
def path(tmp_path):
    """A file that says of a run of two events."""
    store = JsonlStore(tmp_path / "records.jsonl")
    epoch = store.begin("a")
    for seq in range(2):
        store.append("a", epoch, stored(seq))
    store.finish("a", epoch)
    store.close()
    return tmp_path / "records.jsonl"


def album(path):
    """All that can be seen of a file's records."""
    store = JsonlStore(path)
    seen = [(store.info(root), list(store.read(root))) for root in store.roots()]
    store.close()
    return seen


def test_the_file_says_in_clear_what_was_written(path):
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["write"] for line in lines] == ["begin", "append", "append", "finish"]
    assert lines[1]["event"] == {**stored(0)._asdict(), "data": '{"text":"x"}'}


def test_a_file_that_was_cut_anywhere(path):
    """Of a line that was not finished nothing is left, and the next one stands in its place."""
    data, whole = path.read_bytes(), album(path)
    ends = [len(b"".join(data.splitlines(keepends=True)[:count])) for count in range(5)]
    for cut in {*range(0, len(data), 13), *(end + by for end in ends for by in (-1, 0, 1))} & set(range(len(data) + 1)):
        path.write_bytes(data[:cut])
        ((info, events),) = album(path) or [(None, [])]
        assert events == whole[0][1][: len(events)]
        assert path.stat().st_size == max(end for end in ends if end <= cut)
        if info is not None:
            store = JsonlStore(path)
            store.revoke("a")
            store.append("a", store.acquire("a"), stored(len(events)))
            store.close()
            assert len(album(path)[0][1]) == len(events) + 1


def test_a_byte_that_was_changed(path):
    """Nothing is read that was not written: a line that says something else is an error, from the first look on."""
    data = path.read_bytes()
    for at in range(0, len(data) - 1, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(crewbus.CorruptRecordError, match="after position"):
            album(path)


def test_a_line_that_is_missing_or_moved(path):
    first, second, third, last = path.read_bytes().splitlines(keepends=True)
    for lines in ([second, third, last], [first, third, last], [first, third, second, last], [first, first]):
        path.write_bytes(b"".join(lines))
        with pytest.raises(crewbus.CorruptRecordError):
            album(path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'{"write":"append"}',
        b'{"write":"__init__","by":"x"}',
        b'{"write":"close","by":"x"}',
        b'{"write":"begin","by":"x","root_id":["a"]}',
        b'{"write":"begin","by":"x","root_id":"b","more":1}',
        b'{"write":"append","by":"x","root_id":"a","epoch":1,"event":{"__class__":"os.system"}}',
    ],
)
def test_a_malformed_line(path, line):
    """Also one with the right checksum: what it names is looked up nowhere, and nothing is called."""
    import zlib

    said, sum_before = line.removesuffix(b"}"), 0
    for before in path.read_bytes().splitlines():
        sum_before = zlib.crc32(before.rpartition(b', "sum": ')[0], sum_before)
    with path.open("ab") as file:
        file.write(b'%b, "sum": %d}\n' % (said, zlib.crc32(said, sum_before)))
    with pytest.raises(crewbus.CorruptRecordError):
        album(path)


def test_a_file_that_went_away(path):
    """A writer that continued gets one error; after that the file's present content counts."""
    store = JsonlStore(path)
    assert store.roots() == ["a"]
    path.unlink()
    with pytest.raises(crewbus.RecordingError, match="shorter"):
        store.roots()
    assert store.roots() == []
    store.close()


def test_a_disk_that_is_full(path, monkeypatch):
    """What was not written whole is not there, in memory neither; it can be tried again."""
    import os

    write = os.write
    store = JsonlStore(path)
    epoch = store.acquire("a")
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(crewbus.RecordingError, match="not written completely"):
            store.append("a", epoch, stored(2))
    assert store.info("a").last == 1
    store.append("a", epoch, stored(2))
    store.close()
    assert [event.seq for event in album(path)[0][1]] == [0, 1, 2]


def test_several_processes_write_one_file(tmp_path):
    """Each its own runs, at the same time: all are there, none mixed up with another."""
    program = """
import sys
from crewbus_jsonl import JsonlStore
from crewbus.testing.store.model import write
store = JsonlStore(sys.argv[1])
for number in range(5):
    root = f"{sys.argv[2]}/{number}"
    epoch = store.begin(root)
    write(store, root, epoch, 0, 20)
    store.finish(root, epoch)
store.close()
"""
    path = tmp_path / "records.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "abc"]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    seen = album(path)
    assert sorted(info.root_id for info, _ in seen) == sorted(
        f"{name}/{number}" for name in "abc" for number in range(5)
    )
    for info, events in seen:
        assert [event.seq for event in events] == list(range(20))
        assert info.sealed


@pytest.mark.crewbus(plugins=["jsonl"])
def test_urls(bus, tmp_path):
    opened = partial(bus.plugins.hook.crewbus_open_store, bus=bus)
    assert opened(url="sqlite:///x") is None
    store = opened(url=f"jsonl:///{tmp_path}/r.jsonl")
    assert store.begin("a") == 1
    assert (tmp_path / "r.jsonl").exists()
    store.close()


@pytest.mark.crewbus(plugins=["jsonl"])
def test_a_folder_that_is_not_there(bus, tmp_path):
    bus.enable_recording(f"jsonl:///{tmp_path}/missing/r.jsonl")
    with pytest.raises(crewbus.RecordingError, match=r"missing.*No such file"):
        bus.run().start()
