"""For the tests of plugins and stores: fixtures, a store's contract, records as fixtures, examples in documentation.

pytest finds the fixtures `bus`, `captured_events`, `recorded_run` and `no_leaks` by itself where crewbus is installed.
Of crewbus only they and `StoreContract` need pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CapturedEvents",
    "Example",
    "LeakCheck",
    "RecordedRun",
    "RunRecorder",
    "StoreContract",
    "examples",
    "replayed",
]

if TYPE_CHECKING:
    from crewbus.testing.captured_events import CapturedEvents
    from crewbus.testing.leaks.check import LeakCheck
    from crewbus.testing.page_examples import Example, examples
    from crewbus.testing.recorded_run import RecordedRun, RunRecorder
    from crewbus.testing.replay import replayed
    from crewbus.testing.store.contract import StoreContract

# Where each name lives: loaded when first used, so that pytest loads nothing of it where no test does, and a record can
# be replayed where pytest is not installed.
_HOME = {
    "CapturedEvents": "captured_events",
    "Example": "page_examples",
    "LeakCheck": "leaks.check",
    "RecordedRun": "recorded_run",
    "RunRecorder": "recorded_run",
    "StoreContract": "store.contract",
    "examples": "page_examples",
    "replayed": "replay",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crewbus.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"crewbus.testing.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
