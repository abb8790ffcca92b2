"""Makes the golden export of a run that was interrupted in an attempt: run it once for each version of the format.

Usage: ``python interrupted.py export-N``. See ``make.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import crewbus
from crewbus.records.export import write_export


class Gone(BaseException):
    """The process ends here."""


class Mortal(crewbus.MemoryStore):
    """Writes nothing any more once the process is dead."""

    dead = False

    def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
        if not self.dead:
            super().append(root_id, epoch, event)

    def finish(self, root_id: str, epoch: int) -> None:
        if not self.dead:
            super().finish(root_id, epoch)


def work(run: crewbus.Run, in_the_step: Callable[[], object], after: Callable[[], object]) -> None:
    """An attempt in which everything happens that has an id."""
    bus = run.bus
    with suppress(ConnectionError), run.attempt():
        bus.chunk("attempt ")
        with bus.call("model") as call:
            with suppress(ConnectionError), call.attempt():
                bus.chunk("no! ")
                raise ConnectionError
            with call.attempt():
                bus.chunk("call ")
        with bus.run("nested", key="k"), bus.call("model"):
            bus.chunk("nested ")
        run.step("done", lambda: bus.chunk("done ") and None)

        def open_step() -> None:
            with bus.call("model"):
                bus.chunk("open ")
                in_the_step()

        run.step("open", open_step)
        after()
    bus.chunk("after")


def main(folder: Path) -> None:
    """Write the export."""
    folder.mkdir(exist_ok=True)
    store = Mortal()

    def crash() -> None:
        store.flush()
        store.dead = True
        raise Gone

    with suppress(Gone), crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        with bus.run("interrupted", id="interrupted") as run:
            work(run, crash, int)
    with (folder / "interrupted.jsonl").open("w", encoding="utf-8") as out:
        write_export(out, store, "interrupted", {"name": "interrupted"})


if __name__ == "__main__":
    main(Path(__file__).parent / sys.argv[1])
