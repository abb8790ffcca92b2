"""For the tests of plugins and stores: a store's contract as a class to subclass, and records as fixtures.

Of crewbus only `StoreContract` needs pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["StoreContract", "replayed"]

if TYPE_CHECKING:
    from crewbus.testing._replayed import replayed
    from crewbus.testing._store_contract import StoreContract

# Where each name lives: loaded when first used, so that a record can be replayed where pytest is not installed.
_HOME = {"StoreContract": "_store_contract", "replayed": "_replayed"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crewbus.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"crewbus.testing.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
