"""Pruning: which records are dropped, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from crewbus.exceptions import InputError, RecordingError, RunNotFoundError
from crewbus.stores import LogInfo, Store


def prune(store: Store, keep: int | None, older_than: float | None, now: float, dry_run: bool) -> list[str]:
    """Drop root runs from a store and return their ids, the newest first: see `Records.prune`."""
    if keep is None and older_than is None:
        raise InputError("prune() needs keep= or older_than=")
    if (keep is not None and keep < 0) or (older_than is not None and older_than < 0):
        raise InputError(f"prune(keep={keep}, older_than={older_than}): give numbers from 0")
    logs = {log.root_id: log for log in (log_of(store, root) for root in reversed(store.roots())) if log is not None}
    limit = None if older_than is None else now - older_than
    candidates = [
        root
        for number, (root, log) in enumerate(logs.items())
        if not log.alive and number >= (keep or 0) and _is_older(store, log, limit)
    ]
    needed = {ancestor for root in logs.keys() - set(candidates) for ancestor in _ancestors(logs, root)}
    chosen = [root for root in candidates if root not in needed]
    if dry_run:
        return chosen
    forks_first = sorted(chosen, key=lambda root: -len(_ancestors(logs, root)))
    dropped = {root for root in forks_first if _drop(store, root)}
    return [root for root in chosen if root in dropped]


def log_of(store: Store, root_id: str) -> LogInfo | None:
    """Return the state of a log, or None if another process has dropped it in the meantime."""
    with suppress(RunNotFoundError):
        return store.info(root_id)
    return None


def _drop(store: Store, root_id: str) -> bool:
    """Drop a record; False if it is gone already, or in use again."""
    try:
        store.drop(root_id)
    except RunNotFoundError:
        return False
    except RecordingError:
        log = log_of(store, root_id)
        if log is None or log.alive or store.forks(root_id):  # resumed or forked in the meantime
            return False
        raise
    return True


def _ancestors(logs: Mapping[str, LogInfo], root_id: str) -> list[str]:
    found: list[str] = []
    parent = logs[root_id].parent
    while parent is not None and parent in logs:
        found.append(parent)
        parent = logs[parent].parent
    return found


def _is_older(store: Store, log: LogInfo, limit: float | None) -> bool:
    if limit is None or log.last < 0:
        return True
    try:
        return store.event(log.root_id, log.last).at < limit
    except RunNotFoundError:
        return False
