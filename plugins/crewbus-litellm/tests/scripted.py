"""A model server with scripted answers, for cases that the server beside the checkout does not cover."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers import TIMEOUT

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}

Answer = tuple[int, str, bytes, bool]
"""Status, content type, body, and whether the connection is cut before the end."""


def fails(status: int) -> Answer:
    """An error."""
    return status, "application/json", json.dumps({"error": {"message": f"scripted {status}"}}).encode(), False


def says(text: str | None, **message: Any) -> Answer:
    """A whole answer."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return 200, "application/json", json.dumps(body).encode(), False


def streams(*deltas: dict[str, Any], cut: bool = False, usage: bool = False) -> Answer:
    """A streamed answer; ``cut`` in mid-stream, after these."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    parts: list[dict[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    if not cut:
        parts.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        parts.append({**base, "choices": [], "usage": USAGE})
    lines = [json.dumps(part) for part in parts] + ([] if cut else ["[DONE]"])
    return 200, "text/event-stream", "".join(f"data: {line}\n\n" for line in lines).encode(), cut


def body(value: Any) -> Answer:
    """A whole answer of another API than that of chat completions."""
    return 200, "application/json", json.dumps(value).encode(), False


def sent_events(*events: dict[str, Any]) -> Answer:
    """A streamed answer of another API: server-sent events, named after their types."""
    lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return 200, "text/event-stream", "".join(lines).encode(), False


class Script:
    """The answers of the server, in order; the last one is repeated."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.free = threading.Event()
        """While it is not set, requests wait for their answers."""
        self.free.set()
        self._answers: deque[Answer] = deque()

    def tell(self, *answers: Answer) -> str:
        """Start over with these answers; returns the URL."""
        self.requests.clear()
        self._answers = deque(answers)
        return self.url

    def next(self, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        return self._answers.popleft() if len(self._answers) > 1 else self._answers[0]


@contextmanager
def scripted_server() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, kind, body, cut = script.next(request)
            script.free.wait(TIMEOUT)
            with suppress(ConnectionError):  # the user may have given up
                self.answer(status, kind, body, cut)

        def answer(self, status: int, kind: str, body: bytes, cut: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + cut))  # one byte more than there will be
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Script(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
