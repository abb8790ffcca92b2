"""The contract of a store: good stores pass, and each of its tests notices a faulty store."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from faulty_stores import FAULTS
from helpers import BESIDE
from hypothesis import Phase, settings

import crewbus
from crewbus import MemoryStore, Store
from crewbus.stores import Claim
from crewbus.testing import StoreContract
from crewbus.testing.store import contract, process, sequences, watching
from crewbus.testing.store.contract import (
    DataContract,
    ForkContract,
    ListingContract,
    MailboxContract,
    WatchingContract,
    WorkContract,
)
from crewbus.testing.store.model import Model, stored
from crewbus_jsonl import JsonlStore


class TestMemoryStore(StoreContract):
    opens = MemoryStore

    def open(self):
        return self.opens()


class TestJsonlStore(StoreContract):
    """A store that survives its process, on `crewbus.stores.journal.JournalStore`."""

    survives = True
    opens = JsonlStore

    def open(self):
        return self.opens(self.path / "records.jsonl")

    def opener(self):
        module, name = self.opens.__module__, self.opens.__name__
        return (
            f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(BESIDE)]!r}\n"
            f"import {module}; store = {module}.{name}({str(self.path / 'records.jsonl')!r})"
        )

    @pytest.mark.heavy
    def test_many_events_in_one_log(self):
        super().test_many_events_in_one_log()


class TestModel(DataContract, ForkContract, ListingContract):
    """What stores are compared with, and what `crewbus.Store` does for those that don't do it better."""

    def open(self):
        return Model()


class Defaults(MemoryStore):
    """A store of somebody who knows nothing of work that is shared."""

    create, claim, post, posted = Store.create, Store.claim, Store.post, Store.posted
    watch, changes = Store.watch, Store.changes

    def release(self, root_id, epoch):
        super().release(root_id, epoch)


class TestDefaults(WorkContract, MailboxContract, WatchingContract):
    """What `crewbus.Store` does for those that don't do it better."""

    def open(self):
        return Defaults()


def test_a_store_without_a_mailbox_says_so():
    store = Defaults()
    store.begin("a")
    assert store.posted("a") == []
    with pytest.raises(crewbus.RecordingError, match=r"Defaults has no post\(\): its runs can't receive messages"):
        store.post("a", "u", b"")


def test_a_default_claim_gives_back_what_another_process_had_meanwhile():
    class Slow(Defaults):
        def acquire(self, root_id):
            if root_id not in taken:  # between the look at the log and its acquisition
                taken.append(root_id)
                epoch = super().acquire(root_id)
                if root_id == "ended":
                    self.append("ended", epoch, stored(1, "ended", name="crewbus.RunFinished"))
                    self.finish("ended", epoch)
                elif root_id == "released":
                    self.release("released", epoch)
            return super().acquire(root_id)

    taken, store = [], Slow()
    for root_id in ("ended", "released", "held"):
        store.create(root_id, [stored(0, root_id)])
    assert store.claim(Claim(limit=9)) == []
    assert [store.info(root_id).alive for root_id in ("ended", "released", "held")] == [False, False, True]
    assert [store.info(root_id).sealed for root_id in ("ended", "released", "held")] == [True, False, False]
    assert store.claim(Claim(limit=9)) == [("released", 4)]


# Stores that break it

NOTICED = AssertionError, IndexError, crewbus.CrewbusError, pytest.fail.Exception


def parameters(test):
    """The values that a test of the contract is called with, one after the other."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return [(value,) for value in marks[0].args[1]] if marks else [()]


@pytest.mark.parametrize(("test", "fault"), [pytest.param(*f, id=f"{f[1].__name__}-{f[0]}") for f in FAULTS])
def test_the_contract_notices(test, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "LONGEST_LEASE", 0.05)  # for what never comes
    monkeypatch.setattr(watching, "PATIENCE", 0.05)
    if "noticed" in test:
        monkeypatch.setattr(process, "PATIENCE", 5.0)
    long = settings(sequences.SETTINGS, phases=[Phase.generate], max_examples=1_000)
    monkeypatch.setattr(sequences, "SETTINGS", long)
    monkeypatch.setattr(sequences, "WORK_SETTINGS", long)
    tests = TestJsonlStore() if issubclass(fault, JsonlStore) else TestMemoryStore()
    tests.opens = fault
    with pytest.raises(NOTICED):
        for number, values in enumerate(parameters(getattr(StoreContract, test))):
            tests.path = tmp_path / str(number)
            tests.path.mkdir()
            try:
                getattr(tests, test)(*values)
            finally:
                tests.close_all()


def test_a_sequence_that_fails_is_shrunk_to_the_calls_that_matter(tmp_path):
    class SealsEverything(MemoryStore):
        def release(self, root_id, epoch, until=None):
            self.finish(root_id, epoch)

    tests = TestMemoryStore()
    tests.opens, tests.path = SealsEverything, tmp_path
    with pytest.raises(AssertionError) as raised:
        tests.test_any_calls_in_any_order()
    calls = [line for note in raised.value.__notes__ for line in note.splitlines()]
    made = [line for line in calls if re.match(r"state\.(?!shows_the_same|teardown)", line)]
    assert made == ["state.begin(root='a')", "state.release(back=0, root='a')"]


def test_each_test_of_the_contract_notices_a_fault():
    tests = {name for name, _ in inspect.getmembers(StoreContract, inspect.isfunction) if name.startswith("test_")}
    assert {test for test, _ in FAULTS} == tests


def test_assertions_of_the_contract_are_rewritten():
    parts = {path.stem for path in Path(contract.__file__).parent.glob("*.py")} - {"__init__", "contract"}
    assert {f"crewbus.testing.store.{part}" for part in parts} == contract.PARTS


def test_a_contract_without_a_store_is_an_error():
    with pytest.raises(TypeError, match=r"abstract method '?open'?"):
        StoreContract()


def test_a_contract_of_a_surviving_store_without_an_opener_is_an_error():
    class Unopened(StoreContract):
        def open(self):
            return MemoryStore()

    with pytest.raises(NotImplementedError, match=r"Unopened\.opener\(\) must return"):
        Unopened().opener()
