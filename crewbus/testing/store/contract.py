"""The contract of `crewbus.Store` as a class of tests to subclass."""

from __future__ import annotations

import sys
from typing import Final

import pytest

_RECORDS: Final = (
    "case",
    "crash",
    "data",
    "forks",
    "leases",
    "listing",
    "logs",
    "mailbox",
    "segments",
    "watching",
    "work",
)
_MACHINES: Final = ("model", "process", "sequences", "threads")
PARTS: Final = frozenset(f"crewbus.testing.store.{part}" for part in (*_RECORDS, *_MACHINES))
# Otherwise a failed assertion shows no values. Modules that are already imported stay as they are.
pytest.register_assert_rewrite(*PARTS - sys.modules.keys())

from crewbus.testing.store.data import DataContract  # noqa: E402
from crewbus.testing.store.forks import ForkContract  # noqa: E402
from crewbus.testing.store.leases import LeaseContract  # noqa: E402
from crewbus.testing.store.listing import ListingContract  # noqa: E402
from crewbus.testing.store.logs import LogContract  # noqa: E402
from crewbus.testing.store.mailbox import MailboxContract  # noqa: E402
from crewbus.testing.store.process import ProcessContract  # noqa: E402
from crewbus.testing.store.segments import SegmentContract  # noqa: E402
from crewbus.testing.store.sequences import SequenceContract  # noqa: E402
from crewbus.testing.store.threads import ThreadContract  # noqa: E402
from crewbus.testing.store.watching import WatchingContract  # noqa: E402
from crewbus.testing.store.work import WorkContract  # noqa: E402


class StoreContract(
    LogContract,
    DataContract,
    SegmentContract,
    LeaseContract,
    ForkContract,
    ListingContract,
    WorkContract,
    MailboxContract,
    WatchingContract,
    ThreadContract,
    SequenceContract,
    ProcessContract,
):
    """Tests a store against the contract in `crewbus.stores`. Subclass it in a test module, and open your store::

        class TestMyStore(StoreContract):
            survives = True

            def open(self) -> Store:
                return MyStore(self.path / "records")

            def opener(self) -> str:
                return f"from my_store import MyStore; store = MyStore({str(self.path / 'records')!r})"

    ``self.path`` is an empty directory for each test. ``survives`` says whether data outlive the process: then `open`,
    called again in a test, opens the same data, and `opener` returns Python source that opens them in another process.
    The test closes what it opened. Tests of what only a store can do by itself, such as caps that hold across
    processes, are skipped for one with the defaults of `crewbus.Store.create`, ``claim`` and ``post``.
    """
