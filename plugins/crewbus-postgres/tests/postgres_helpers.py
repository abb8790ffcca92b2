"""What the tests of the store share: a schema of each test's own."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

LEASE = 2.0
"""Seconds: tests that kill a process wait for as long."""


def schema_for(path: Path) -> str:
    """The name of the schema of a test with that directory."""
    return f"test_{blake2b(str(path).encode(), digest_size=10).hexdigest()}"
