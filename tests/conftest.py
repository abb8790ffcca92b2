"""What holds for every test."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from helpers import BESIDE, earlier_threads, quiet_bus

# So that what is durable is tested on every Python, where crewbus-sqlite is not installed too. It stands before the
# import, since the helpers look whether there is one.
sys.path.append(str(BESIDE))

from recorded_helpers import DISKS

import crewbus


@pytest.fixture(scope="session", autouse=True)
def own_directory(tmp_path_factory):
    """Each worker stands in a directory of its own, and nothing records unless a test asks for it."""
    before = Path.cwd()
    os.environ.setdefault("CREWBUS_RECORD", "off")
    os.chdir(tmp_path_factory.mktemp("worker"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def own_threads():
    """A test that asks for the threads of crewbus is not told of those that an earlier one left."""
    earlier_threads.clear()
    earlier_threads.update(threading.enumerate())


@pytest.fixture(params=DISKS)
def disk(request, tmp_path):
    """Where runs are recorded so that another bus, as if of another process, finds them: in memory, and in a file."""
    return request.param(tmp_path)


@pytest.fixture
def bus():
    """A bus that records to memory, for tests whose module has none of its own."""
    with quiet_bus() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        yield bus
