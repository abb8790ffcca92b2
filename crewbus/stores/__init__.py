"""Stores: the contract of a backend that keeps records, and the one in memory."""

from crewbus.events.landmarks import ENDS, LANDMARKS, MARKS
from crewbus.stores.contract import LogInfo, Store, StoredEvent
from crewbus.stores.memory import MemoryStore
from crewbus.stores.users import StoreRefs, store_refs

__all__ = ["ENDS", "LANDMARKS", "MARKS", "LogInfo", "MemoryStore", "Store", "StoreRefs", "StoredEvent", "store_refs"]
