"""Stores: the contract of a backend, and what the built-in ones share."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.events import ENDS, LANDMARKS, MARKS, SUSPENDED
from crewbus.stores.users import StoreRefs, store_refs

if TYPE_CHECKING:
    from crewbus.stores.claims import PROGRESS, Cap, Claim, Claimed
    from crewbus.stores.contract import Store
    from crewbus.stores.listing import END_STATES, STATES, LogFilter, LogSummary, name_and_tags
    from crewbus.stores.memory import MemoryStore
    from crewbus.stores.rows import MOST_STALLS, Backlog, LogInfo, LogPart, Posted, StoredEvent
    from crewbus.stores.segments import Segment, fold

__all__ = [
    "ENDS",
    "END_STATES",
    "LANDMARKS",
    "MARKS",
    "MOST_STALLS",
    "PROGRESS",
    "STATES",
    "SUSPENDED",
    "Backlog",
    "Cap",
    "Claim",
    "Claimed",
    "LogFilter",
    "LogInfo",
    "LogPart",
    "LogSummary",
    "MemoryStore",
    "Posted",
    "Segment",
    "Store",
    "StoreRefs",
    "StoredEvent",
    "fold",
    "name_and_tags",
    "store_refs",
]

# Loaded at first use: a bus that records nothing needs none of it, and one that records to another store no memory.
__getattr__ = lazy_names(
    __name__,
    {
        "claims": "PROGRESS Cap Claim Claimed",
        "contract": "Store",
        "listing": "END_STATES STATES LogFilter LogSummary name_and_tags",
        "memory": "MemoryStore",
        "rows": "MOST_STALLS Backlog LogInfo LogPart Posted StoredEvent",
        "segments": "Segment fold",
    },
)
