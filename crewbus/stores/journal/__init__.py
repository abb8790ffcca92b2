"""Journal stores, on anything that can be appended to: one line of JSON per write."""

from crewbus.stores.journal.store import JournalStore

__all__ = ["JournalStore"]
