"""The contract of `crewbus.Store` as a class of tests to subclass."""

from __future__ import annotations

import sys
from typing import Final

import pytest

PARTS: Final = frozenset(
    f"crewbus.testing.store.{part}"
    for part in ("case", "crash", "data", "forks", "leases", "logs", "model", "process", "sequences", "threads")
)
# Else a test that fails would not say what it has found. What is imported already stays as it is.
pytest.register_assert_rewrite(*PARTS - sys.modules.keys())

from crewbus.testing.store.data import DataContract  # noqa: E402
from crewbus.testing.store.forks import ForkContract  # noqa: E402
from crewbus.testing.store.leases import LeaseContract  # noqa: E402
from crewbus.testing.store.logs import LogContract  # noqa: E402
from crewbus.testing.store.process import ProcessContract  # noqa: E402
from crewbus.testing.store.sequences import SequenceContract  # noqa: E402
from crewbus.testing.store.threads import ThreadContract  # noqa: E402


class StoreContract(
    LogContract, DataContract, LeaseContract, ForkContract, ThreadContract, SequenceContract, ProcessContract
):
    """Holds a store to every sentence of `crewbus.stores`. Subclass it in a test module, and say how to open yours::

        class TestMyStore(StoreContract):
            survives = True

            def open(self) -> Store:
                return MyStore(self.path / "records")

            def opener(self) -> str:
                return f"from my_store import MyStore; store = MyStore({str(self.path / 'records')!r})"

    ``self.path`` is an empty directory of each test's own. ``survives`` says whether data outlive the process: then
    `open`, called again in a test, opens the same data, and `opener` gives Python source by which another process
    does. What was opened is closed after the test.
    """
