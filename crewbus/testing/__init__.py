"""For the tests of plugins and stores: fixtures, the contract of a store, records as fixtures, examples in pages.

pytest finds the fixtures `bus`, `captured_events`, `recorded_run` and `no_leaks` by itself where crewbus is installed.
The extra ``crewbus[testing]`` installs what the rest needs: Sybil for `examples`, objgraph for `no_leaks`, Hypothesis
for `StoreContract` and `NetworkContract`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

__all__ = [
    "CapturedEvents",
    "Cut",
    "Example",
    "LeakCheck",
    "NetworkContract",
    "RecordedRun",
    "RunRecorder",
    "StoreContract",
    "TcpProxy",
    "examples",
    "replayed",
]

if TYPE_CHECKING:
    from crewbus.testing.captured_events import CapturedEvents
    from crewbus.testing.leaks.check import LeakCheck
    from crewbus.testing.network.network_contract import NetworkContract
    from crewbus.testing.network.proxy import Cut, TcpProxy
    from crewbus.testing.page_examples import Example, examples
    from crewbus.testing.recorded_run import RecordedRun, RunRecorder
    from crewbus.testing.replay import replayed
    from crewbus.testing.store.contract import StoreContract

# The module of each name, imported when the name is first used: pytest loads none of them unless a test needs it, and a
# record can be replayed without pytest.
_HOME: Final = {
    "CapturedEvents": "captured_events",
    "Cut": "network.proxy",
    "Example": "page_examples",
    "LeakCheck": "leaks.check",
    "NetworkContract": "network.network_contract",
    "RecordedRun": "recorded_run",
    "RunRecorder": "recorded_run",
    "StoreContract": "store.contract",
    "TcpProxy": "network.proxy",
    "examples": "page_examples",
    "replayed": "replay",
}
_EXTRA: Final = ("hypothesis", "objgraph", "pytest", "sybil")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crewbus.testing' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"crewbus.testing.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name in _EXTRA:
            error.add_note(f"crewbus.testing.{name} needs {error.name}: install crewbus[testing]")
        raise
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
