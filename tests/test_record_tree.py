"""The tree of a record, which runs are inside a run, and what resumes discarded."""

from __future__ import annotations

import crewbus
from crewbus.events import (
    AttemptStarted,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    Envelope,
    RunFinished,
    RunResumed,
    RunStarted,
    StepStarted,
)
from crewbus.records.retractions import DiscardedRanges
from crewbus.records.tree import CLOSERS, OPENERS, RecordTree, RunMembership
from crewbus.stores import LANDMARKS


def at(seq, parent=None, run_id="r"):
    return Envelope(None, run_id, seq, parent, 0.0)


def test_each_opener_and_closer_is_a_landmark():
    assert {crewbus.event_type_of(cls).name for cls in (*OPENERS, *CLOSERS)} <= LANDMARKS


def test_nodes_have_the_kind_position_and_order_of_their_events():
    tree = RecordTree()
    root = tree.apply(RunStarted, at(0))
    step = tree.apply(StepStarted, at(1, "r:0"))
    call = tree.apply(CallStarted, at(2, "r:1"))
    saved = tree.apply(CheckpointSaved, at(3, "r:0"))
    assert [(depth, node.kind, node.seq) for depth, node in root.walk()] == [
        (0, "run", 0),
        (1, "step", 1),
        (2, "call", 2),
        (1, "checkpoint", 3),
    ]
    assert call.parent is step
    assert saved.parent is step.parent is root


def test_an_end_belongs_to_the_nearest_scope_of_its_kind():
    tree = RecordTree()
    root = tree.apply(RunStarted, at(0))
    call = tree.apply(CallStarted, at(1, "r:0"))
    tree.apply(AttemptStarted, at(2, "r:1"))
    assert tree.apply(CallFinished, at(3, "r:2")) is call
    assert tree.apply(RunFinished, at(4, "r:2")) is root
    assert tree.apply(CallFinished, at(5, "r:0")) is None


def test_other_events_belong_to_the_scope_of_their_parent():
    tree = RecordTree()
    root = tree.apply(RunStarted, at(0))
    assert tree.apply(str, at(1, "r:0")) is root
    assert tree.apply(str, at(2, "r:1")) is None
    assert tree.apply(str, at(3, "no number")) is None


def test_a_run_has_its_own_events_and_those_of_the_runs_inside_it():
    inside = RunMembership("outer", "root")
    assert not inside.includes(at(0, None, "root"), starts_run=True)
    assert inside.includes(at(1, "root:0", "outer"), starts_run=True)
    assert inside.includes(at(2, "outer:1", "inner"), starts_run=True)
    assert inside.includes(at(3, "inner:2", "inner"), starts_run=False)
    assert not inside.includes(at(4, "root:0", "other"), starts_run=True)
    assert not inside.includes(at(5, "other:4", "other"), starts_run=False)


def test_a_root_run_has_all_events():
    inside = RunMembership("root", "root")
    assert inside.includes(at(7, "unknown:3", "unknown"), starts_run=False)


def test_resumes_discard_what_came_after_their_checkpoint():
    discarded = DiscardedRanges()
    discarded.add(RunResumed(2, 2, "c"), 5)
    discarded.add(RunResumed(5, 3, "d"), 6)  # discards nothing
    discarded.add(RunResumed(7, 4, "e"), 9)
    assert [seq for seq in range(11) if seq in discarded] == [3, 4, 8]
    discarded.add(RunResumed(1, 5, "b"), 12)
    assert [seq for seq in range(14) if seq in discarded] == list(range(2, 12))
