"""Arrays in the binary form: the server reads what was given."""

from __future__ import annotations

import math

import psycopg
import pytest

from crewbus_postgres._arrays import KINDS

VALUES = {
    "bigint": [1, None, -(2**63), 2**63 - 1],
    "bool": [True, None, False],
    "bytea": [b"", None, b"\0\xff", b"x" * 100_000],
    "float8": [1.5, None, math.inf, -0.0, 1e-300],
    "smallint": [1, None, -5],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_read_as_it_was_given(server, kind):
    with psycopg.connect(server) as connection, connection.cursor(binary=True) as cursor:
        for values in (VALUES[kind], VALUES[kind][:1], [None], []):
            rows = cursor.execute(f"SELECT * FROM unnest(%b::{kind}[])", [KINDS[kind].of(values)]).fetchall()
            assert [value for (value,) in rows] == values
