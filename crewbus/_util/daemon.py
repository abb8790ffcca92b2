"""Daemon threads, which keep neither the process alive nor a context."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any


def start_daemon(name: str, target: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a daemon thread that calls ``target(*args)``. Raises RuntimeError if the system can start none."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    # In an empty context: threads of free-threaded builds inherit the caller's, and would keep it.
    Context().run(thread.start)
    return thread
