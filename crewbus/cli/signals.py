"""SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context manager within which the signals are ours. One that is ignored stays ignored."""

    def __init__(self) -> None:
        self.code = 0
        """The exit code that the first signal calls for; 0 before."""
        self._ask: Callable[[], object] = lambda: None
        self._usual: dict[int, Any] = {}

    def listen(self, ask: Callable[[], object]) -> None:
        """Call ``ask`` at the first signal, between any two instructions of the main thread."""
        self._ask = ask

    @property
    def word(self) -> str:
        """What the first signal did."""
        return "terminated" if self.code == 128 + signal.SIGTERM else "interrupted"

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.code:
            with suppress(OSError):
                # Not by way of sys.stderr, in the middle of whose write the signal may have come.
                os.write(2, b"\ncrewbus: stopped at once\n")
            os._exit(128 + number)
        self.code = 128 + number
        self._ask()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._usual[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.code:
            return  # the process is about to exit, and the second signal must not wait for its threads
        for number, usual in self._usual.items():
            signal.signal(number, usual)
