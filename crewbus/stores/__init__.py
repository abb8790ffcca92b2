"""Stores: the contract of a backend, and what the built-in ones share."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.events import ENDS, LANDMARKS, MARKS
from crewbus.stores.contract import LogInfo, Store, StoredEvent
from crewbus.stores.users import StoreRefs, store_refs

if TYPE_CHECKING:
    from crewbus.stores.memory import MemoryStore

__all__ = [
    "ENDS",
    "LANDMARKS",
    "MARKS",
    "LogInfo",
    "MemoryStore",
    "Store",
    "StoreRefs",
    "StoredEvent",
    "store_refs",
]

# Loaded at first use: a bus that records nothing, or to another store, does not need it.
__getattr__ = lazy_names(__name__, {"memory": "MemoryStore"})
