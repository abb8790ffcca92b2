"""Stores: the contract of a backend that keeps records."""

from crewbus.stores.contract import ENDS, LANDMARKS, MARKS, LogInfo, Store, StoredEvent

__all__ = ["ENDS", "LANDMARKS", "MARKS", "LogInfo", "Store", "StoredEvent"]
