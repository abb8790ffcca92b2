"""The kernel's rules of waiting, specified in code: who waits for what, who ends the wait, who goes on instead.

Nothing of crewbus is used here. A `Setting` has a few actors (threads or tasks), streams and a background handler, all
with a bound of one. `explore` visits every state that any interleaving of their steps can reach, and reports those in
which something waits that nothing can release. `WAITS` is the table that `docs/explanation/waiting.md` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final, NamedTuple, TypeAlias

import attrs


class Row(NamedTuple):
    """A kind of wait: who ends it, what else does, and what happens where it may not wait."""

    released_by: str
    also_by: str
    otherwise: str


WAITS: Final[Mapping[str, Row]] = {
    "an emission, a full blocking buffer": Row(
        "its consumer",
        "the consumer leaves, the run ends or is cancelled, the bus closes",
        "goes on; at twice the bound the stream fails",
    ),
    "`drain()`, a full blocking buffer": Row(
        "its consumer", "the consumer leaves, the run ends or is cancelled, the bus closes", "returns"
    ),
    "an emission, a full background queue": Row(
        "the handler", "the run is cancelled", "goes on; at twice the bound the event is discarded, and reported"
    ),
    "a consumer, an empty buffer": Row("who emits in the run", "the run ends, the bus closes", "waits"),
    "`result()`, work that runs": Row("the work", "its timeout", "waits"),
    "`flush()`, pending deliveries": Row("the handlers", "its timeout", "`FlushError` inside a handler"),
    "`close()`, work and deliveries": Row("the work, the handlers", "its timeout", "`FlushError` inside a handler"),
    "a lock": Row("its holder", "", "what a hook, finaliser or signal handler emits is deferred to the release"),
}
"""By who waits for what. A consumer, `result()`, `flush()` and `close()` have to wait: what waits for them goes on."""

RULES: Final[Mapping[str, str]] = {
    "circle": "Nothing waits for what waits for it: the one that would close the circle goes on.",
    "dependents": (
        "`result()`, `flush()` and `close()` have to wait: they wake what waits for them and could end their wait, to "
        "check again."
    ),
    "leave wakes": "A consumer that leaves, or whose stream is dropped, wakes the emitters.",
    "end wakes": "The end of a run wakes its consumer and the emitters.",
    "cancel wakes": "A cancel wakes what waits in the run.",
    "close wakes": "A closing bus wakes the emitters that wait for a consumer.",
    "handled wakes": "A handler that is done wakes those that flush or close.",
    "wakes are kept": "A wait is registered before it looks for a reason: a wake between look and sleep is not lost.",
    "defer": "Nothing takes a second lock: what is emitted under a lock is deferred until its release.",
}
"""Without any one of these the search finds a state that nothing leaves."""

Op: TypeAlias = tuple[str, str]
"""What an actor does, and to which stream, handler or actor."""


class Actor(NamedTuple):
    """A thread, or the ``loop``'s only task. With ``serves`` it is a background handler, whose body its ops are."""

    ops: tuple[Op, ...]
    serves: str = ""
    loop: bool = False


class Setting(NamedTuple):
    """Actors by name; the streams and the handler are those that their ops name."""

    actors: Mapping[str, Actor]

    def feeders(self, stream: str) -> list[str]:
        """Who emits in the run of ``stream``, apart from handlers."""
        return [name for name, one in self.actors.items() if not one.serves and _feeds(one, stream)]

    def consumer(self, stream: str) -> str | None:
        """Who consumes it."""
        readers = (name for name, one in self.actors.items() if {("take", stream), ("read", stream)} & set(one.ops))
        return next(readers, None)

    def server(self, handler: str) -> str | None:
        """Who calls it."""
        return next((name for name, one in self.actors.items() if one.serves == handler), None)


def _feeds(actor: Actor, stream: str) -> bool:
    return any(kind in ("emit", "nested") and stream in what.split(">") for kind, what in actor.ops)


@attrs.frozen
class Doing:
    """Where an actor is: at which op, and how far in it."""

    at: int = 0
    phase: str = "ready"
    """"ready", "locked" (holds the lock of a stream's tree), "waits" (registered), "looks", "asleep", or "done"."""
    deferred: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


@attrs.frozen
class Channel:
    """A stream's buffer, or a handler's queue."""

    frames: int = 0
    held: int = 0
    """Of a stream, what its consumer took last; of a queue, what is being handled."""
    over: bool = False
    """Whether it takes nothing more: its run ended, its consumer left or failed, or its bus is closed."""
    failed: bool = False
    waiting: int = 0
    """How many emitters wait: their frames do not count towards twice the bound."""


@attrs.frozen
class State:
    """Everything at one moment."""

    doing: Mapping[str, Doing] = attrs.field(eq=lambda doing: tuple(doing.items()))
    channels: Mapping[str, Channel] = attrs.field(eq=lambda channels: tuple(channels.items()))
    cancelled: frozenset[str] = frozenset()
    closing: bool = False

    @property
    def key(self) -> object:
        """What distinguishes it from other states."""
        return tuple(self.doing.values()), tuple(self.channels.values()), self.cancelled, self.closing


BOUND: Final = 1
MUST: Final = {"take", "read", "result", "flush", "close", "join"}
"""What has to wait, so that those who wait for it go on. "join" waits by other means than those of the bus."""
_EMITS: Final = {"emit", "nested", "drain", "queue"}


class Model:
    """The steps of one setting; ``without`` a rule, to see that it is needed."""

    def __init__(self, setting: Setting, without: str = "") -> None:
        self.setting = setting
        self.without = without
        self._names = list(setting.actors)

    def first(self) -> State:
        """Where it begins: all is empty. A run in which nothing emits has ended; one without a stream has no buffer."""
        named = {what for one in self.setting.actors.values() for kind, text in one.ops for what in text.split(">")}
        streams = sorted(name for name in named if name in "xy")
        channels = {
            name: Channel(over=not self.setting.feeders(name) or self.setting.consumer(name) is None)
            for name in streams
        }
        channels |= {one.serves: Channel() for one in self.setting.actors.values() if one.serves}
        phases = {name: "idle" if one.serves else "ready" for name, one in self.setting.actors.items()}
        return State({name: Doing(phase=phase) for name, phase in phases.items()}, channels)

    # Who waits for whom

    def op(self, state: State, name: str) -> Op:
        """What the actor does now."""
        return self.setting.actors[name].ops[state.doing[name].at]

    def releasers(self, state: State, name: str) -> list[str]:
        """Who could end the wait of ``name``."""
        if not self.waits(state, name):
            return []
        kind, what = self.op(state, name)
        if kind in ("emit", "nested", "drain"):
            consumer = self.setting.consumer(what.split(">")[-1])
            return [consumer] if consumer is not None else []
        if kind == "queue":
            server = self.setting.server(what)
            return [server] if server is not None else []
        if kind in ("take", "read"):
            feeders = [one for one in self.setting.feeders(what) if state.doing[one].phase != "done"]
            return [one for one in feeders if one != name]
        if kind in ("result", "join"):
            return [what]
        return [one for one, actor in self.setting.actors.items() if actor.serves and one != name]

    def waits(self, state: State, name: str) -> bool:
        """Whether the actor is registered as waiting."""
        return state.doing[name].phase in ("waits", "looks", "asleep")

    def reached(self, state: State, name: str, all_waits: bool = False) -> set[str]:
        """Who could end the wait, whom those wait for, and so on; ``all_waits``: those that the bus can't see too."""
        todo, seen = list(self.releasers(state, name)), set[str]()
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                if all_waits or not self._is_unseen(state, one):
                    todo += self.releasers(state, one)
        return seen

    def _is_unseen(self, state: State, name: str) -> bool:
        """Whether the rule counts this as no wait: a consumer's, and one by other means than those of the bus."""
        return self.waits(state, name) and self.op(state, name)[0] in ("take", "read", "join")

    def _is_beyond(self, state: State, name: str) -> bool:
        """Whether it waits by other means, or reads one stream while an emitter waits for it to read another."""
        if not self.waits(state, name):
            return False
        kind, what = self.op(state, name)
        return kind == "join" or (
            kind in ("take", "read")
            and any(
                self.waits(state, one)
                and self.op(state, one)[0] in ("emit", "nested", "drain")
                and self.op(state, one)[1].split(">")[-1] != what
                and name in self.releasers(state, one)
                for one in self._names
            )
        )

    def may_wait(self, state: State, name: str) -> bool:
        """The rule."""
        kind, what = self.op(state, name)
        if kind in MUST:
            return True
        if kind != "drain" and self.setting.actors[name].loop:
            return False
        run = what.split(">")[-1]
        if run in state.cancelled or (kind != "queue" and state.closing):
            return False
        return self.without == "circle" or name not in self.reached(state, name)

    def satisfied(self, state: State, name: str) -> bool:
        """Whether there is nothing to wait for any more."""
        kind, what = self.op(state, name)
        channels = state.channels
        if kind in ("emit", "nested", "drain"):
            channel = channels[what.split(">")[-1]]
            return channel.over or channel.frames + channel.held < BOUND
        if kind == "queue":
            return channels[what].frames < BOUND or channels[what].over
        if kind in ("take", "read"):
            return bool(channels[what].frames) or channels[what].over
        if kind in ("result", "join"):
            return state.doing[what].phase == "done"
        return not any(
            channels[actor.serves].frames or channels[actor.serves].held
            for actor in self.setting.actors.values()
            if actor.serves
        )

    # Steps

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Each step that some actor can make, and the state that follows."""
        for name in self._names:
            after = self.step(state, name)
            if after is not None:
                yield name, after

    def step(self, state: State, name: str) -> State | None:
        """The next step of one actor; None: it can make none."""
        doing = state.doing[name]
        if doing.phase in ("done", "asleep"):
            return None
        if doing.phase == "idle":
            return self._serve(state, name)
        if doing.phase == "locked":
            return self._unlock(state, name)
        if doing.phase == "waits":
            if self.may_wait(state, name):
                return self._set(state, name, phase="looks")
            return self._go_on(state, name)
        if doing.phase == "looks":
            if not self.satisfied(state, name):
                return self._set(state, name, phase="asleep")
            return self._take(state, name) if self.op(state, name)[0] in MUST else self._wait_over(state, name)
        return self._begin(state, name)

    def turn(self, state: State, name: str) -> State:
        """Steps of one actor until its op ends or it sleeps."""
        while (after := self.step(state, name)) is not None:
            state = after
            if state.doing[name].phase in ("ready", "done", "asleep"):
                break
        return state

    def _begin(self, state: State, name: str) -> State | None:
        kind, what = self.op(state, name)
        run = what.split(">")[0]
        if kind in ("emit", "nested", "drain", "queue") and run in state.cancelled:
            return self._end(state, name)  # it raises `Cancelled`
        if kind == "emit" or kind == "nested":
            return self._lock(state, name, run)
        if kind == "queue":
            return self._queue(state, name, what)
        if kind == "leave":
            return self._next(self._over(state, what, "leave wakes"), name)
        if kind == "cancel":
            state = attrs.evolve(state, cancelled=state.cancelled | {what})
            return self._next(self._wake(state, what, "cancel wakes"), name)
        if kind in ("flush", "close") and self.setting.actors[name].serves:
            return self._next(state, name)  # it raises `FlushError`
        if kind == "close":
            state = attrs.evolve(state, closing=True)
            for stream in self._streams(state):
                state = self._wake(state, stream, "close wakes")
        state = self._set(state, name, phase="looks" if kind in MUST else "waits")
        if kind in ("take", "read"):  # what it took before is handled now
            state = self._wake(self._put(state, what, attrs.evolve(state.channels[what], held=0)), what, "")
        if kind in ("result", "flush", "close") and self.without != "dependents":
            state = self._release_dependents(state, name)
        return state

    def _release_dependents(self, state: State, name: str) -> State:
        for one in self.reached(state, name):
            if self.waits(state, one) and self.op(state, one)[0] in _EMITS and name in self.reached(state, one):
                state = self._set(state, one, phase="waits")
        return state

    def _streams(self, state: State) -> list[str]:
        return [name for name in state.channels if name in "xy"]

    def _lock(self, state: State, name: str, stream: str) -> State | None:
        if any(stream in one.holds for one in state.doing.values()):
            return None
        doing = state.doing[name]
        return self._set(self._append(state, name, stream), name, phase="locked", holds=(*doing.holds, stream))

    def _append(self, state: State, name: str, stream: str) -> State:
        channel = state.channels[stream]
        if channel.over:
            return state
        channel = attrs.evolve(channel, frames=channel.frames + 1)
        state = self._put(state, stream, channel)
        return self._wake(state, stream, "", consumer=True)

    def _unlock(self, state: State, name: str) -> State | None:
        """Emit what a hook under the lock emits: after the release, or without the rule before it."""
        kind, what = self.op(state, name)
        streams, doing = what.split(">"), state.doing[name]
        if kind == "nested" and streams[-1] not in doing.deferred:
            if self.without == "defer":
                after = self._lock(state, name, streams[-1])
                return None if after is None else self._set(after, name, deferred=(streams[-1],))
            return self._set(state, name, phase="ready", holds=(), deferred=(streams[-1],))
        return self._fill(self._set(state, name, holds=(), deferred=()), name, streams[-1])

    def _fill(self, state: State, name: str, stream: str) -> State:
        channel = state.channels[stream]
        if channel.over or channel.frames + channel.held < BOUND:
            return self._next(state, name)
        state = self._put(state, stream, attrs.evolve(channel, waiting=channel.waiting + 1))
        return self._set(state, name, phase="waits")

    def _go_on(self, state: State, name: str) -> State:
        """It may not wait: a stream fails at twice its bound, and a queue takes no more."""
        kind, what = self.op(state, name)
        state = self._wait_over(state, name)
        channel = state.channels[what.split(">")[-1]]
        if kind in ("emit", "nested") and channel.frames + channel.held - channel.waiting >= 2 * BOUND:
            state = self._put(state, what.split(">")[-1], attrs.evolve(channel, failed=True))
            state = self._over(state, what.split(">")[-1], "")
        return state

    def _wait_over(self, state: State, name: str) -> State:
        kind, what = self.op(state, name)
        what = what.split(">")[-1]
        if kind != "drain":
            channel = state.channels[what]
            state = self._put(state, what, attrs.evolve(channel, waiting=max(0, channel.waiting - 1)))
        return self._next(state, name)

    def _take(self, state: State, name: str) -> State:
        """What had to wait has what it waited for."""
        kind, what = self.op(state, name)
        if kind not in ("take", "read"):
            if kind == "close":
                for stream in self._streams(state):
                    state = self._over(state, stream, "")
            return self._next(state, name)
        channel = state.channels[what]
        if not channel.frames:
            return self._next(state, name)  # the end
        # What it took counts until it takes more, so with a bound of one this makes no room.
        state = self._put(state, what, attrs.evolve(channel, frames=channel.frames - 1, held=1))
        return self._next(state, name) if kind == "take" else self._set(state, name, phase="ready")

    def _queue(self, state: State, name: str, handler: str) -> State:
        channel = state.channels[handler]
        if channel.frames - channel.waiting >= 2 * BOUND:
            return self._next(state, name)  # discarded, and reported
        channel = attrs.evolve(channel, frames=channel.frames + 1)
        if channel.frames < BOUND:
            return self._next(self._put(state, handler, channel), name)
        channel = attrs.evolve(channel, waiting=channel.waiting + 1)
        return self._set(self._put(state, handler, channel), name, phase="waits")

    def _serve(self, state: State, name: str) -> State | None:
        handler = self.setting.actors[name].serves
        channel = state.channels[handler]
        if not channel.frames:
            return None
        state = self._put(state, handler, attrs.evolve(channel, frames=channel.frames - 1, held=1))
        state = self._wake(state, handler, "")
        return self._set(state, name, at=0, phase="ready") if self.setting.actors[name].ops else self._end(state, name)

    # Changes

    def _set(self, state: State, name: str, **changes: object) -> State:
        doing = {**state.doing, name: attrs.evolve(state.doing[name], **changes)}
        return attrs.evolve(state, doing=doing)

    def _put(self, state: State, name: str, channel: Channel) -> State:
        return attrs.evolve(state, channels={**state.channels, name: channel})

    def _next(self, state: State, name: str) -> State:
        at = state.doing[name].at + 1
        if at == len(self.setting.actors[name].ops):
            return self._end(state, name)
        return self._set(state, name, at=at, phase="ready")

    def _end(self, state: State, name: str) -> State:
        actor = self.setting.actors[name]
        if actor.serves:
            channel = attrs.evolve(state.channels[actor.serves], held=0)
            state = self._set(self._put(state, actor.serves, channel), name, at=0, phase="idle")
            return self._wake_where(state, {"flush", "close"}, "", "handled wakes")
        state = self._set(state, name, phase="done", holds=(), deferred=())
        for stream in self._streams(state):
            feeders = self.setting.feeders(stream)
            if name in feeders and all(state.doing[one].phase == "done" for one in feeders):
                state = self._over(state, stream, "end wakes")
            if self.setting.consumer(stream) == name:  # its stream is dropped
                state = self._over(state, stream, "leave wakes")
        return self._wake_where(state, {"result", "join"}, name, "")

    def _over(self, state: State, stream: str, rule: str) -> State:
        channel = state.channels[stream]
        left = rule == "leave wakes"
        state = self._put(state, stream, attrs.evolve(channel, over=True, held=0, frames=0 if left else channel.frames))
        return self._wake(state, stream, rule, consumer=True)

    def _wake(self, state: State, channel: str, rule: str, consumer: bool = False) -> State:
        """Make those who wait for this channel look again."""
        if rule and rule == self.without:
            return state
        kinds = {"take", "read"} if consumer and not rule else {"emit", "nested", "drain", "queue"}
        if consumer and rule:
            kinds |= {"take", "read"}
        return self._wake_where(state, kinds, channel, rule)

    def _wake_where(self, state: State, kinds: set[str], what: str, rule: str) -> State:
        if rule and rule == self.without:
            return state
        for name, doing in state.doing.items():
            # The wake of a cancel or a close is kept for one that is about to sleep: it is registered before it looks.
            kept = rule in ("cancel wakes", "close wakes") and self.without != "wakes are kept"
            if not (doing.phase == "asleep" or (kept and doing.phase == "looks")):
                continue
            kind, of = self.op(state, name)
            if kind in kinds and (not what or of.split(">")[-1] == what):
                state = self._set(state, name, phase="looks" if kind in MUST else "waits")
        return state

    # What has to hold

    def is_released(self, state: State, name: str, enabled: set[str]) -> bool:
        """Whether some actor that can make a step could end this wait, directly or through others.

        Or it waits for a circle of calls that have to wait, such as two that ask for each other's result, for one that
        waits by other means, or for the consumer of two streams: then a cancel and a close free the emitters.
        """
        reached = self.reached(state, name, all_waits=True)
        if reached & enabled or any(self._holders(state, one) & enabled for one in reached):
            return True
        kind, what = self.op(state, name)
        if any(self._is_beyond(state, one) for one in (*reached, name)):
            return not (kind in _EMITS and (what in state.cancelled or (kind != "queue" and state.closing)))
        must = {one for one in (*reached, name) if self.waits(state, one) and self.op(state, one)[0] in MUST}
        return any(self._circle(state, one, must) for one in must)

    def _holders(self, state: State, name: str) -> set[str]:
        """Who holds a lock that the actor is about to take, as nothing that waits for anything else does."""
        if self.waits(state, name) or state.doing[name].phase in ("idle", "done"):
            return set()
        streams = self.op(state, name)[1].split(">")
        return {one for one, doing in state.doing.items() if one != name and set(doing.holds) & set(streams)}

    def _circle(self, state: State, name: str, must: set[str]) -> bool:
        todo, seen = [one for one in self.releasers(state, name) if one in must], set[str]()
        while todo:
            one = todo.pop()
            if one == name:
                return True
            if one not in seen:
                seen.add(one)
                todo += [other for other in self.releasers(state, one) if other in must]
        kind, what = self.op(state, name)  # who takes what only itself would emit, or asks for its own result
        return (kind in ("take", "read") and name in self.setting.feeders(what)) or (kind, what) == ("result", name)


class Found(NamedTuple):
    """What a search found."""

    states: int
    stuck: tuple[str, ...]
    """The steps to the first state in which something waits that nothing can release; empty: there is none."""
    waiting: tuple[str, ...]
    """Who waits there."""


def explore(setting: Setting, without: str = "") -> Found:
    """Visit every state that can be reached."""
    model = Model(setting, without)
    first = model.first()
    seen, todo = {first.key}, [(first, tuple[str, ...]())]
    while todo:
        state, path = todo.pop()
        steps = list(model.steps(state))
        enabled = {name for name, _ in steps}
        asleep = [name for name, doing in state.doing.items() if doing.phase == "asleep"]
        blocked = [name for name, doing in state.doing.items() if doing.phase not in ("asleep", "done", "idle")]
        stuck = [name for name in asleep if not model.is_released(state, name, enabled)]
        stuck += [name for name in blocked if not enabled]
        if stuck:
            return Found(len(seen), path or ("",), tuple(stuck))
        for name, after in steps:
            if after.key not in seen:
                seen.add(after.key)
                todo.append((after, (*path, name)))
    return Found(len(seen), (), ())


# Settings

_OPS: Final[tuple[Op, ...]] = (
    ("emit", "x"), ("emit", "y"), ("nested", "x>y"), ("nested", "y>x"), ("queue", "h"), ("take", "x"), ("read", "x"),
    ("read", "y"), ("leave", "x"), ("cancel", "x"), ("flush", ""), ("close", ""),
)  # fmt: skip
_WAITING: Final = MUST | {"queue", "nested"}
"""Without any of these nothing waits."""
_BODIES: Final[tuple[tuple[Op, ...], ...]] = ((), (("emit", "x"),), (("queue", "h"),), (("flush", ""),))


def settings(most: int = 3) -> Iterator[Setting]:
    """Two actors of ``most`` ops together, none of more than two, with each body of a handler; and some of three."""
    programs = [(one,) for one in _OPS] + list(product(_OPS, repeat=2))
    for i, first in enumerate(programs):
        for second in programs[: i + 1]:
            ops = {*first, *second}
            if len(first) + len(second) > most or not any(kind in _WAITING for kind, _ in ops):
                continue
            bodies = _BODIES if ("queue", "h") in ops else ((),)
            for body in bodies:
                setting = _setting(first, second, body)
                if _is_sound(setting):
                    yield setting
    yield from _of_three()


def _setting(first: tuple[Op, ...], second: tuple[Op, ...], body: tuple[Op, ...], *more: Actor) -> Setting:
    actors = {"a": Actor(first), "b": Actor(second), **{"cde"[i]: one for i, one in enumerate(more)}}
    if any(kind == "queue" for one in actors.values() for kind, _ in one.ops):
        actors["h"] = Actor(body, serves="h")
    return Setting(actors)


def _of_three() -> Iterator[Setting]:
    thirds = [(one,) for one in _OPS] + [(("result", "a"),), (("result", "b"), ("read", "x"))]
    pairs = (
        ((("emit", "x"), ("emit", "x")), (("read", "x"), ("emit", "y"))),
        ((("read", "y"), ("emit", "x")), (("read", "x"), ("emit", "y"))),
        ((("emit", "x"), ("queue", "h")), (("take", "x"), ("leave", "x"))),
        ((("emit", "x"), ("drain", "x")), (("read", "x"),)),
        ((("emit", "x"), ("emit", "x")), (("take", "x"), ("join", "a"), ("take", "x"))),
        ((("emit", "x"), ("emit", "y")), (("read", "x"), ("read", "y"))),
        ((("emit", "y"), ("emit", "x")), (("result", "a"), ("read", "x"), ("read", "y"))),
    )
    for (first, second), third, loop in product(pairs, thirds, (False, True)):
        setting = _setting(first, second, (("emit", "x"),), Actor(third, loop=loop))
        if _is_sound(setting):
            yield setting


def _is_sound(setting: Setting) -> bool:
    """Whether each stream has one consumer at the most, and what is left is left by that one."""
    for stream in "xy":
        readers = [
            name
            for name, one in setting.actors.items()
            if {("take", stream), ("read", stream), ("leave", stream)} & set(one.ops)
        ]
        if len(readers) > 1:
            return False
    return True
