"""The contract of stores, all of it."""

from __future__ import annotations

from crewbus.testing import StoreContract
from crewbus_sqlite import SQLiteStore


class TestSQLiteStore(StoreContract):
    survives = True

    def open(self):
        return SQLiteStore(self.path / "record.db")

    def opener(self):
        return f"from crewbus_sqlite import SQLiteStore\nstore = SQLiteStore({str(self.path / 'record.db')!r})"
