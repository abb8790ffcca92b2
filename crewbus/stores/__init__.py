"""Stores: the contract of a backend, and what the built-in ones share."""

from crewbus.events import ENDS, LANDMARKS, MARKS
from crewbus.stores.contract import LogInfo, Store, StoredEvent
from crewbus.stores.memory import MemoryStore
from crewbus.stores.users import StoreRefs, store_refs

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
