"""crewbus-postgres: records the runs of a crewbus in PostgreSQL. The store is `PostgresStore`."""

from crewbus_postgres._schema import schema_sql
from crewbus_postgres._store import PostgresStore

__all__ = ["PostgresStore", "schema_sql"]
