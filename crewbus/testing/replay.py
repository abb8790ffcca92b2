"""Records as fixtures: code runs against a record, and recorded steps are not called again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crewbus import Bus, MemoryStore, Run, RunNotFoundError, Store, StoredEvent
from crewbus.exceptions import InputError
from crewbus.records import read_export
from crewbus.stores import ENDS


@contextmanager
def replayed(path: str | Path, run_id: str | None = None, *, bus: Bus | None = None) -> Iterator[Run]:
    """A recorded run, resumed from a copy in memory: its steps return their recorded results.

    ``path``: a file written by ``crewbus export RUN --jsonl``, or a store's file or URL; ``run_id`` then names the run
    (None: the newest). ``bus``: where to resume it (None: a bus of its own). A step that is not in the record raises
    `ReplayMismatch`, as in any resumed run; a step after the last recorded one is called. Nothing is written to
    ``path``. Raises `RunNotFoundError`, `InputError`, `CorruptRecordError`.
    """
    own = bus if bus is not None else Bus(entry_points=False)
    try:
        root, events = _load(str(path), run_id)
        store = MemoryStore()
        copy_unfinished(events, root, store)
        own.recording.use_store(store)
        with own.resume(root) as run:
            yield run
    finally:
        if bus is None:
            own.close()


def copy_unfinished(events: list[StoredEvent], root: str, store: Store) -> None:
    """Write the events of a run to ``store``, except its end."""
    if events and events[-1].name in ENDS and events[-1].run_id == root:
        events.pop()
    epoch = store.begin(root)
    for event in events:
        store.append(root, epoch, event)
    store.release(root, epoch)


def _load(path: str, run_id: str | None) -> tuple[str, list[StoredEvent]]:
    if path.endswith(".jsonl"):
        export = read_export(Path(path))
        if export.events and export.events[0].seq != 0:
            raise InputError(f"{path}: run {export.run_id} is nested in another: export its root")
        return export.run_id, list(export.events)
    url = path if "://" in path or path.startswith("memory:") else f"sqlite:///{path}"
    with Bus() as opener:
        opener.recording.use_store(url)
        roots: Iterable[str] = opener.store.roots()
        root = run_id or next(reversed(list(roots)), None)
        if root is None or opener.store.root_of(root) is None:
            raise RunNotFoundError(f"{path} holds no run {run_id or ''}".rstrip())
        if opener.store.root_of(root) != root:
            raise InputError(f"run {root} is nested in another: name its root")
        return root, list(opener.store.read(root))
