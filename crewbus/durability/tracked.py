"""Tracked entities: their state is saved with each checkpoint."""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus import serialization
from crewbus.exceptions import UnserializableError

if TYPE_CHECKING:
    from crewbus.serialization import Codec, Written

_TRIES: Final = 100
"""How many times an entity is written that other threads change at the same time."""
_SAME_ERRORS: Final = 5
"""After this many equal errors in a row the cause is the entity, not a concurrent change."""
_FANOUT: Final = 8
"""How many changes of one level are recorded before one change replaces them all for later readers."""
_PAUSE: Final = 0.0001
"""Seconds by which the pause grows from try to try, so that other threads proceed."""


class Saved(NamedTuple):
    """A state, and the number of the event that it was recorded as."""

    state: Written
    seq: int


class Draft(NamedTuple):
    """A state as it is recorded: the whole state, or its changes since the state recorded as number ``base``."""

    state: Written
    data: Any
    base: int | None
    level: int


class Tracked:
    """An entity and its state as last saved."""

    __slots__ = ("_bases", "_count", "_size", "entity")

    def __init__(self, entity: Any) -> None:
        self.entity = entity
        self._bases: list[Saved] = []
        """The state saved last; then, by level, the last one saved whose count is a multiple of `_FANOUT` to that
        power."""
        self._count = 0
        """How many states were saved as changes since the last whole one."""
        self._size = 0
        """The characters of JSON of that whole state."""

    @property
    def saved_at(self) -> int:
        """The number of the event with the state that was saved last; -1 if there is none."""
        return self._bases[0].seq if self._bases else -1

    def draft(self, state: Written, *, whole: bool) -> Draft | None:
        """What to record of ``state``; None if it is the one that was saved last.

        A state that grew is recorded as a change of an earlier one, which costs what was added. The earlier one is
        mostly the last, sometimes an older one, so that few changes lead from a whole state to any: their number
        grows with the logarithm of that of the checkpoints. ``whole``: it is recorded whole unless it is the same.
        """
        last = self._bases[0] if self._bases else None
        if last is None or last.state[1:] != state[1:]:
            return Draft(state, state.data, None, 0)
        change = serialization.change_between(last.state.data, state.data)
        if change is None:
            return None
        level, count = 0, self._count + 1
        while count % _FANOUT ** (level + 1) == 0:
            level += 1
        base = self._bases[min(level, len(self._bases) - 1)]
        if base is not last:
            change = serialization.change_between(base.state.data, state.data) or ["=", state.data]
        if whole or 2 * len(json.dumps(change)) > self._size:
            return Draft(state, state.data, None, 0)
        return Draft(state, change, base.seq, level)

    def note(self, draft: Draft, seq: int) -> None:
        """Note that a draft was recorded as the event of that number."""
        saved = Saved(draft.state, seq)
        if draft.base is None:
            self._bases, self._count = [saved], 0
            self._size = len(json.dumps(draft.data))
            return
        self._count += 1
        whole = self._bases[-1]
        bases = self._bases + [whole] * (draft.level + 2 - len(self._bases))
        self._bases = [saved] * (draft.level + 1) + bases[draft.level + 1 :]

    def write(self, codec: Codec, name: str) -> Written:
        """Its state. Raises `UnserializableError` with its name."""
        errors: list[str] = []
        for tried in range(_TRIES):
            try:
                written = codec.write_entity(snapshot(self.entity, {}))
            except UnserializableError as error:
                if not isinstance(error.__cause__, RuntimeError):  # not a change during iteration
                    errors.append(str(error))
            else:
                return written
            if len(errors) >= _SAME_ERRORS and len(set(errors[-_SAME_ERRORS:])) == 1:
                break
            time.sleep(tried * _PAUSE)
        errors = errors or ["other threads change it continuously"]
        raise UnserializableError(f"entity {name!r}: {errors[-1]}")


def snapshot(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with each container in it copied at once: later changes of the containers do not show.

    Otherwise writing an entity that another thread keeps changing could never succeed. ``seen`` maps the id of each
    original to its copy, so that a value that contains itself is copied once.
    """
    if id(value) in seen:
        return seen[id(value)]
    copied: Any = value
    if type(value) is dict:
        copied = seen[id(value)] = value.copy()
        for key, inner in list(copied.items()):
            copied[key] = snapshot(inner, seen)
    elif type(value) is list:
        copied = seen[id(value)] = value.copy()
        copied[:] = [snapshot(inner, seen) for inner in copied]
    elif type(value) is tuple:
        copied = tuple(snapshot(inner, seen) for inner in value)
    elif type(value) is set:
        copied = value.copy()
    elif serialization.is_declared(type(value)) and (copied := _copy_of(value)) is not value:
        seen[id(value)] = copied
        for field in [field for field, _ in serialization.fields_of(type(value)) if hasattr(value, field)]:
            object.__setattr__(copied, field, snapshot(getattr(value, field), seen))
    return copied


def _copy_of(value: Any) -> Any:
    """A shallow copy, or ``value`` itself if its class can't be copied."""
    try:
        return copy.copy(value)
    except Exception:
        return value
