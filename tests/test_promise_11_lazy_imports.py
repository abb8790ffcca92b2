"""Promise 11: an interrupt of what an emission loads at first use leaves nothing that a later emission would miss."""

from __future__ import annotations

import os
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


FORKED = """
import os, signal, sys, threading

import crewbus

loading, forking = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "crewbus.streams.owned" and not loading.is_set():
            loading.set()
            forking.wait(60)


def stream():
    with bus.stream(lambda: bus.chunk("x") and None) as stream:
        return [type(frame.event).__name__ for frame in stream]


bus = crewbus.Bus(entry_points=False)
os.register_at_fork(before=forking.set)  # called first, since it is registered last
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=stream)
thread.start()
assert loading.wait(60)
child = os.fork()
if not child:
    signal.alarm(20)
    assert stream() == ["Chunk", "RunFinished"]
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_promise_11_a_child_forked_while_a_thread_loads_a_module_can_load_it():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    child = subprocess.run(command, timeout=60, capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("0\n", "")
