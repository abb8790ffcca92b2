"""All budgets in one table."""

from __future__ import annotations

from benchmarks import calls, emit, imports, memory, stream
from benchmarks._harness import main

if __name__ == "__main__":
    main(emit.rows, calls.rows, stream.rows, memory.rows, imports.rows)
