"""What a million events leave behind in the process that emitted them; to be called in a process of its own."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks._alone import settled
from benchmarks._harness import TaskFinished, handler
from crewbus import Bus

SHORT_RUNS: Final = 100
TOGETHER: Final = 1000
"""After how many events it is waited."""

Wait = Callable[[], object]


def _emit(bus: Bus, n: int, wait: Wait) -> None:
    for number in range(1, n + 1):
        bus.emit(TaskFinished(f"task {number}", f"output {number}"))
        if number % TOGETHER == 0:
            wait()


def _emit_all(bus: Bus, n: int, wait: Wait = lambda: None) -> int:
    """Emit half of the events in one run, half in many short ones; the resident set after either, at most."""
    with bus.run():
        _emit(bus, n // 2, wait)
        wait()
        resident = settled()
    for _ in range(SHORT_RUNS):
        with bus.run():
            _emit(bus, n // 2 // SHORT_RUNS, wait)
    wait()
    return max(resident, settled())


def unrecorded(n: int) -> tuple[int, int]:
    """By how many bytes the resident set grew with ``n`` events, and with a few more what tracemalloc sees."""
    with Bus(entry_points=False) as bus:
        bus.on(TaskFinished, handler)
        before = _emit_all(bus, n // 100)
        grown = _emit_all(bus, n) - before
        tracemalloc.start()
        try:
            _emit_all(bus, n // 100)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
            _emit_all(bus, n // 20)
            gc.collect()
            return max(grown, 0), max(tracemalloc.get_traced_memory()[0] - kept, 0)
        finally:
            tracemalloc.stop()


def recorded(n: int) -> int:
    """By how many bytes the resident set grew with ``n`` events that were recorded to SQLite, and flushed."""
    from crewbus_sqlite import SQLiteStore

    with tempfile.TemporaryDirectory() as folder, Bus(entry_points=False) as bus:
        bus.on(TaskFinished, handler)
        bus.enable_recording(SQLiteStore(Path(folder, "record.db")))
        before = _emit_all(bus, n // 100, bus.flush)
        return max(_emit_all(bus, n, bus.flush) - before, 0)
