"""SIGINT and SIGTERM: the first one cancels or suspends the runs, the second one ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """A context manager that handles both signals. A signal that is ignored stays ignored."""

    def __init__(self) -> None:
        self.exit_code = 0
        """The exit code after the first signal, 0 before it."""
        self._callback: Callable[[], object] | None = None
        self._previous: dict[int, Any] = {}

    def on_first_signal(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback`` at the first signal, in the main thread, between any two instructions."""
        self._callback = callback

    @property
    def suspends(self) -> bool:
        """Whether it asks for the runs to go on elsewhere: SIGTERM does."""
        return self.exit_code == 128 + signal.SIGTERM

    @property
    def reason(self) -> str:
        """``interrupted`` or ``terminated``."""
        return "terminated" if self.suspends else "interrupted"

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.exit_code:
            with suppress(OSError):
                # sys.stderr is not reentrant, and the signal may have interrupted a write to it.
                os.write(2, b"\ncrewbus: stopped at once\n")
            os._exit(128 + number)
        self.exit_code = 128 + number
        if self._callback is not None:
            self._callback()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.exit_code:
            return  # the process is about to exit, and the second signal must not wait for its threads
        for number, previous in self._previous.items():
            signal.signal(number, previous)
