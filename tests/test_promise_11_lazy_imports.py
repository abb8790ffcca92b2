"""Promise 11: an interrupt of what an emission loads at first use leaves nothing that a later emission would miss."""

from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED = """
import sys

import crewbus


class Once:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            raise KeyboardInterrupt


def fails(envelope):
    raise ValueError(envelope.event.text)


sys.modules.pop({module!r}, None)
with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
    bus.on(crewbus.Chunk, fails)
    once = Once()
    sys.meta_path.insert(0, once)
    try:
        bus.chunk("first")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    assert once not in sys.meta_path
    bus.chunk("second")
"""


@pytest.mark.parametrize("module", ["crewbus.plugins.failure", "logging", "traceback"])
def test_promise_11_an_interrupted_import_inside_the_report_of_a_fault_is_made_again(module):
    code = INTERRUPTED.format(module=module)
    child = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=True)
    assert child.stdout == "interrupted\n"
    assert "raised ValueError while handling Chunk" in child.stderr
    assert "second" in child.stderr
