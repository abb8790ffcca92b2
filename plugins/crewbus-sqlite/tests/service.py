"""A process that works in recorded runs, for the tests of suspensions and cancellations. It says what it does."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from typing import Any

import crewbus
from crewbus import Bus, StreamOptions
from crewbus_sqlite import SQLiteStore


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@crewbus.step
def first() -> int:
    say("first")
    return 1


@crewbus.step
def last() -> int:
    say("last")
    return 2


def agent(bus: Bus, ends: bool) -> None:
    first()
    bus.chunk("a")
    say("waits")
    while not ends:
        crewbus.current_run(bus).check()  # type: ignore[union-attr]
    last()
    bus.chunk("b")


def main(path: str, run_id: str, resumes: str, ends: str) -> None:
    bus = Bus(entry_points=False)
    bus.enable_recording(SQLiteStore(path))
    options = StreamOptions(resume=run_id) if resumes == "resumes" else StreamOptions(id=run_id)

    def terminate(*_: Any) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, terminate)
    with bus.stream(agent, bus, ends == "ends", options=options) as stream:
        try:
            stream.result()
        except SystemExit:
            bus.close(suspend=True)
        except crewbus.RunCancelledError:
            pass
        with suppress(crewbus.RunSuspendedError, crewbus.RunCancelledError):
            stream.result()
    say(f"{stream.run.state} {stream.run.stop_reason}")
    bus.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
