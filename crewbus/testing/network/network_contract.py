"""The contract of a store that is behind a network, as a class of tests to subclass."""

from __future__ import annotations

import sys
from typing import Final

import pytest

_MODULES: Final = ("answers", "clocks", "load", "network_case", "outages", "recovery")
PARTS: Final = frozenset(f"crewbus.testing.network.{part}" for part in _MODULES)
# Otherwise a failed assertion shows no values. Modules that are already imported stay as they are.
pytest.register_assert_rewrite(*PARTS - sys.modules.keys())

from crewbus.testing.network.answers import AnswerContract  # noqa: E402
from crewbus.testing.network.clocks import ClockContract  # noqa: E402
from crewbus.testing.network.outages import OutageContract  # noqa: E402
from crewbus.testing.network.recovery import RecoveryContract  # noqa: E402


class NetworkContract(OutageContract, AnswerContract, ClockContract, RecoveryContract):
    """Tests a store whose data are on a server against what a network and that server can do to it.

    Subclass it beside `StoreContract`, and let the store reach its server by way of a `TcpProxy`::

        class TestMyStoreBehindANetwork(NetworkContract):
            lease = 2.0

            def open(self) -> Store:
                return MyStore(f"my://127.0.0.1:{proxy.port}", lease=self.lease)

            def opener(self) -> str:
                return f"from my_store import MyStore; store = MyStore('my://127.0.0.1:{proxy.port}')"

            def cut(self, how: Cut, answers: int = 0) -> threading.Event:
                return proxy.cut(how, answers)

            def heal(self) -> None:
                proxy.heal()

            def restart(self) -> None:
                server.kill()
                server.start()

    After each fault nothing acknowledged is lost, nothing has happened twice, no call has waited for longer than a
    minute, and what waits in memory has stayed within its bound. ``open_limited``, ``crowd``, ``fill_disk`` and
    ``fail_over`` are for further faults, whose tests are skipped unless they are defined.
    """
