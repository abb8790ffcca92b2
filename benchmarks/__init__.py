"""The budgets of the bus, measured: ``python -m benchmarks``, or one part alone, as ``python -m benchmarks.emit``."""
