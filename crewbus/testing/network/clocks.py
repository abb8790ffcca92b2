"""The contract of a store behind a network: clocks of processes that are wrong."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

from crewbus.exceptions import RunHeldError
from crewbus.testing.network.network_case import NetworkCase, repeated
from crewbus.testing.store.case import PATIENCE
from crewbus.testing.store.model import first_events

HOUR: Final = 3600
SHIFT: Final = """
import time
real_time, real_time_ns = time.time, time.time_ns
time.time = lambda: real_time() + {seconds}
time.time_ns = lambda: real_time_ns() + {seconds} * 1_000_000_000
"""
"""Before anything else is imported: the wall clock of that process is wrong."""
HOLD: Final = """
from crewbus.testing.store.crash import *
hold_until_line(store)
"""
CLAIM: Final = """
from crewbus.testing.store.crash import *
claim_and_print(store, 9)
"""


class ClockContract(NetworkCase):
    """What a store does about a process whose clock is an hour fast or slow: nothing depends on it."""

    @contextlib.contextmanager
    def _process(self, seconds: int, source: str) -> Iterator[subprocess.Popen[str]]:
        program = f"{SHIFT.format(seconds=seconds)}\n{self.opener()}\n{source}"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @pytest.mark.parametrize("seconds", [HOUR, -HOUR])
    def test_a_lease_does_not_depend_on_the_clock_of_its_holder(self, seconds: int) -> None:
        """It is renewed in time, keeps others away, and ends soon after the process was killed."""
        store = self.new()
        with self._process(seconds, HOLD) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            threading.Event().wait(1.5 * self.lease)
            with pytest.raises(RunHeldError):
                store.acquire("a")
            other.send_signal(signal.SIGKILL)
            other.wait(PATIENCE)
        assert repeated(lambda: store.acquire("a")) == 2

    @pytest.mark.parametrize("seconds", [HOUR, -HOUR])
    def test_when_a_run_is_due_does_not_depend_on_the_clock_of_who_claims_it(self, seconds: int) -> None:
        """It is the clock of the store that counts, which agrees with that of this process well enough."""
        store = self.new_sharing_work()
        now = time.time()
        for root, until in (("past", now - HOUR / 2), ("future", now + HOUR / 2), ("never", math.inf)):
            store.create(root, first_events(root), until)
        with self._process(seconds, CLAIM) as other:
            said = other.communicate(timeout=PATIENCE)[0]
        assert said.split() == ["past"]
        assert [store.info(root).epoch for root in ("past", "future", "never")] == [1, 0, 0]
