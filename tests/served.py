"""The local model server that stands beside the checkout, and the streams recorded there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
SERVER = SHARED / "model_server.py"
RECORDED = SHARED / "data" / "provider_streams.jsonl"

WAIT = 30.0
"""How many seconds the server may take to start or to stop."""


def recorded() -> list[dict[str, Any]]:
    """The recorded answers; none where the data is absent."""
    if not RECORDED.exists():
        return []
    with RECORDED.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@contextmanager
def model_server(directory: Path, *options: str) -> Iterator[str]:
    """The base URL of a server of one's own, on a free port; skips where there is no server to start."""
    if not SERVER.exists():
        pytest.skip(f"needs {SERVER.name} in the folder shared beside the checkout")
    port_file = directory / "port"
    command = [sys.executable, str(SERVER), "--port-file", str(port_file), "--die-with-parent", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{_port(process, port_file)}/v1"
        finally:
            process.terminate()
            try:
                process.wait(WAIT)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(process: subprocess.Popen[bytes], port_file: Path) -> int:
    until = time.monotonic() + WAIT
    while not port_file.exists():
        assert process.poll() is None, f"the model server ended at once with {process.returncode}"
        assert time.monotonic() < until, f"the model server did not listen within {WAIT} s"
        time.sleep(0.01)
    return int(port_file.read_text())
