"""The server of the how-to "Stream to a browser", stopped by SIGTERM while a browser follows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import crewbus

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "stream-to-a-browser.md"
TIMEOUT = 60.0
AGENT = """
import signal
import time

def agent():
    bus.chunk("Tides ")
    while True:
        crewbus.current_run(bus).check()
        time.sleep(0.01)

def announce(self, serve_forever=Server.serve_forever):
    stream = bus.stream(agent, options=crewbus.StreamOptions(id="r1"))
    stream.__enter__()
    print(self.server_port, flush=True)
    serve_forever(self)

Server.serve_forever = announce
serve(0)
print(bus.closed)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to handle there")
def test_the_server_of_the_guide_stops_at_sigterm_while_a_browser_follows(tmp_path):
    page = PAGE.read_text("utf-8")
    first, serve, *_ = re.findall(r"^```py(?:thon)?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    code = first[: first.index("with Server(")] + serve + AGENT
    (tmp_path / "server.py").write_text(code, "utf-8")
    root = str(Path(crewbus.__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "server.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "CREWBUS_RECORD": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/r1", timeout=TIMEOUT) as following:
            assert following.headers["X-Accel-Buffering"] == "no"
            assert following.readline() == b"event: Chunk\n"
            child.send_signal(signal.SIGTERM)
            rest = following.read()  # the response ends
        out, err = child.communicate(timeout=TIMEOUT)
    finally:
        child.kill()
        child.wait()
    assert out.split() == ["True"], err
    assert child.returncode == 0
    assert b"RunFailed" not in rest
