"""crewbus-sqlite: records the runs of a crewbus in an SQLite file. The store is `SQLiteStore`."""

from crewbus_sqlite._store import SQLiteStore

__all__ = ["SQLiteStore"]
