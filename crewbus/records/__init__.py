"""Records: what runs emitted, read back from a store."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names

if TYPE_CHECKING:
    from crewbus.records.checkpoint import Checkpoint, find_checkpoint
    from crewbus.records.clock import RecordClock
    from crewbus.records.diff import Divergence
    from crewbus.records.export import Branch, as_json, read_export, write_export
    from crewbus.records.html import run_html, stream_html
    from crewbus.records.info import RunInfo
    from crewbus.records.library import Records
    from crewbus.records.lineage import Lineage, is_generated
    from crewbus.records.progress import Progress, Retraction, read_progress, valid
    from crewbus.records.record import Landmark, Record, require_root
    from crewbus.records.recorded import Path, RecordedAttempt, RecordedCall, RecordedHome
    from crewbus.records.retractions import DiscardedRanges, Retractions, Span
    from crewbus.records.timeline import RESUMING, Entry, Timeline
    from crewbus.records.tree import CLOSERS, OPENERS, Node, RecordTree, RunMembership

__all__ = [
    "CLOSERS",
    "OPENERS",
    "RESUMING",
    "Branch",
    "Checkpoint",
    "DiscardedRanges",
    "Divergence",
    "Entry",
    "Landmark",
    "Lineage",
    "Node",
    "Path",
    "Progress",
    "Record",
    "RecordClock",
    "RecordTree",
    "RecordedAttempt",
    "RecordedCall",
    "RecordedHome",
    "Records",
    "Retraction",
    "Retractions",
    "RunInfo",
    "RunMembership",
    "Span",
    "Timeline",
    "as_json",
    "find_checkpoint",
    "is_generated",
    "read_export",
    "read_progress",
    "require_root",
    "run_html",
    "stream_html",
    "valid",
    "write_export",
]

# Loaded at first use: a bus that records nothing needs none of it.
__getattr__ = lazy_names(
    __name__,
    {
        "checkpoint": "Checkpoint find_checkpoint",
        "clock": "RecordClock",
        "diff": "Divergence",
        "export": "Branch as_json read_export write_export",
        "html": "run_html stream_html",
        "info": "RunInfo",
        "library": "Records",
        "lineage": "Lineage is_generated",
        "progress": "Progress Retraction read_progress valid",
        "record": "Landmark Record require_root",
        "recorded": "Path RecordedAttempt RecordedCall RecordedHome",
        "retractions": "DiscardedRanges Retractions Span",
        "timeline": "RESUMING Entry Timeline",
        "tree": "CLOSERS OPENERS Node RecordTree RunMembership",
    },
)
