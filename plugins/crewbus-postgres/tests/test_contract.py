"""The contract of stores, all of it."""

from __future__ import annotations

import pytest
from postgres_helpers import LEASE, schema_for

from crewbus.testing import StoreContract
from crewbus_postgres import PostgresStore


class TestPostgresStore(StoreContract):
    survives = True

    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.url = server

    def open(self):
        return PostgresStore(self.url, schema=schema_for(self.path), lease=LEASE)

    def opener(self):
        arguments = f"{self.url!r}, schema={schema_for(self.path)!r}, lease={LEASE}"
        return f"from crewbus_postgres import PostgresStore\nstore = PostgresStore({arguments})"
