"""Makes the golden file of this release: run it once for each schema version, and never again.

Usage: ``python make.py schema-N.db``. What is recorded here is what `tests/test_golden.py` expects of the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crewbus.stores import StoredEvent
from crewbus_sqlite import SQLiteStore

LOGS = {
    "writer": [
        StoredEvent("writer", 0, None, 1700000000.25, None, 0, "crewbus.RunStarted", 1, b'{"name":"writer"}'),
        StoredEvent("writer", 1, "writer/0", 1700000001.0, "Crew", 0, "crewbus.StepStarted", 1, b'{"name":"draft"}'),
        StoredEvent(
            "reviewer", 2, "writer/1", 1700000001.5, "Agent", 2, "crewbus.Chunk", 1, '{"text":"größer 🦀"}'.encode()
        ),
        StoredEvent("writer", 3, "writer/1", float("inf"), "Crew", 0, "crewbus.StepFinished", 3, b"\xff\x00 no JSON"),
        StoredEvent("writer", 4, None, -0.5, None, 0, "crewbus.RunFinished", (1 << 63) - 1, b""),
    ],
    "long": [StoredEvent("long", seq, None, float(seq), None, 0, "tests.Noted", 1, b"%d" % seq) for seq in range(300)],
    "empty": [],
}
FORKED_AT = 1
FORKED = [StoredEvent("fork", 2, None, 1700000009.0, None, 0, "crewbus.RunForked", 1, b"{}")]


def record(store: SQLiteStore) -> None:
    """Record what the golden file holds."""
    for root, events in LOGS.items():
        epoch = store.begin(root)
        for event in events:
            store.append(root, epoch, event)
        store.finish(root, epoch)
    store.fork("writer", FORKED_AT, "fork")
    epoch = store.acquire("fork")
    for event in FORKED:
        store.append("fork", epoch, event)
    store.release("fork", epoch)


if __name__ == "__main__":
    path = Path(__file__).with_name(sys.argv[1])
    if path.exists():
        sys.exit(f"{path} is there already, and stays as it is")
    made = SQLiteStore(path)
    record(made)
    made.close()
