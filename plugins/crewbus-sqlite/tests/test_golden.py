"""Golden files: what each release has recorded is read by all later ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from golden.make import FORKED, FORKED_AT, LOGS, record

from crewbus.stores import LANDMARKS, LogInfo
from crewbus_sqlite import SQLiteStore

FILES = sorted(Path(__file__).with_name("golden").glob("schema-*.db"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def store(request, tmp_path):
    store = SQLiteStore(shutil.copy(request.param, tmp_path))
    yield store
    store.close()


@pytest.fixture
def fresh(tmp_path):
    store = SQLiteStore(tmp_path / "fresh.db")
    record(store)
    yield store
    store.close()


def has_it_all(store):
    assert store.roots() == ["writer", "long", "empty", "fork"]
    for root, events in LOGS.items():
        assert list(store.read(root)) == events
        assert list(store.landmarks(root)) == [event for event in events if event.name in LANDMARKS]
        assert store.info(root) == LogInfo(root, 1, len(events) - 1, sealed=True)
    shared = LOGS["writer"][: FORKED_AT + 1]
    assert list(store.read("fork")) == shared + FORKED
    assert list(store.landmarks("fork")) == shared + FORKED
    assert store.info("fork")._replace(stalls=0) == LogInfo(
        "fork", 1, 2, sealed=False, parent="writer", parent_at=FORKED_AT
    )
    assert store.forks("writer") == ["fork"]
    assert (store.root_of("reviewer"), store.root_of("editor")) == ("writer", None)


def test_a_golden_file_has_it_all(store):
    has_it_all(store)


def test_a_golden_file_can_be_gone_on_with(store):
    epoch = store.acquire("fork")
    assert epoch == 2
    store.append("fork", epoch, FORKED[0]._replace(seq=3))
    assert [event.seq for event in store.read("fork")] == [0, 1, 2, 3]


def test_so_has_a_new_file(fresh):
    has_it_all(fresh)


def test_there_are_golden_files():
    assert [file.name for file in FILES] == [f"schema-{version}.db" for version in range(1, 6)]
