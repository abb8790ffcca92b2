"""The language of the programs that durable runs are specified with: whatever code may do in a recorded run.

A program is *determined*: what it does outside its steps follows from the outcomes of the steps. The outcome of a step
follows from its place, so that it is the same whenever the step is executed. A site is a node of the program, by the
indices that lead to it in its home; a home is the run or step around it; a place is a home, a site, and how often the
code came to the site.

All nodes are plain values: their repr is the code that makes them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import attrs
from hypothesis import strategies as st

Body: TypeAlias = "tuple[Action, ...]"


@attrs.frozen
class Say:
    """Stream a chunk: in the current scope, or to the run that is ``to`` runs further out.

    ``bare``: from a thread without context, which is taken to work for the step in progress; not in a strand, where
    there may be several, nor beside what a call says outside steps.
    """

    text: str = "a"
    to: int = 0
    bare: bool = False


@attrs.frozen
class Note:
    """Emit an event that goes to no stream, as `Say` does."""

    text: str = "a"
    to: int = 0
    bare: bool = False


@attrs.frozen
class Save:
    """Make a checkpoint: of the current run, or of the one that is ``to`` runs further out."""

    name: str = "c"
    to: int = 0


@attrs.frozen
class Step:
    """A step. ``outcomes`` are those of the first, second… time that the code comes to it; the last one remains.

    ``ok``: it returns. ``bad``: it returns a value at which the code raises `InvalidError`. Otherwise the error that it
    raises. ``declared``: by `crewbus.step`, not by `Run.step`. ``to``: of the run so much further out, if no step lies
    between.
    """

    name: str = "s"
    body: Body = ()
    outcomes: tuple[str, ...] = ("ok",)
    arg: Any = None
    declared: bool = False
    to: int = 0


@attrs.frozen
class Run:
    """A nested run; ``by`` order among its equals, a key, or a chosen id."""

    name: str = "r"
    body: Body = ()
    by: str = "order"


@attrs.frozen
class Call:
    """A call of a model."""

    name: str = "m"
    body: Body = ()


@attrs.frozen
class Fail:
    """Raise `InvalidError` the first ``times`` that the code comes to this."""

    times: int = 1


@attrs.frozen
class Retry:
    """Up to ``times`` attempts at the body. When all have failed, go on, or raise what the last one raised."""

    body: Body = ()
    times: int = 2
    raises: bool = False


@attrs.frozen
class Loop:
    """Do the body until it succeeds, up to ``times``, without an attempt around it; or so many times in any case."""

    body: Body = ()
    times: int = 2
    always: bool = False


@attrs.frozen
class Try:
    """Do the body, and where it fails the handler."""

    body: Body = ()
    handler: Body = ()


@attrs.frozen
class Apart:
    """Do the body in a thread with the caller's context: a `crewbus.Thread`, or by `Bus.submit`."""

    body: Body = ()
    submit: bool = False


@attrs.frozen
class Parallel:
    """Strands that take turns: the first in the caller's thread or task, each other in one of its own.

    What a strand does has keys and texts of its own, so that it can be told from what the others do.
    """

    strands: tuple[Body, ...] = ()


Action: TypeAlias = Say | Note | Save | Step | Run | Call | Fail | Retry | Loop | Try | Apart | Parallel


@attrs.frozen
class Program:
    """What a root run does."""

    body: Body = ()
    handles: str = ""
    """When a handler of what is noted says something: ``always``; or ``once``, not where the event is replayed."""
    tasks: bool = False
    """Whether it is asynchronous: steps are coroutine functions, strands are tasks."""


class HandledError(Exception):
    """What programs handle, besides what fails in steps."""


class InvalidError(HandledError):
    """The code refuses a value, or fails by itself."""


FAILURES: Final = ("ValueError", "KnownError", "DeclaredError", "UnknownError")
"""How steps fail: a builtin exception, a registered one, one that the step declares, and one that nobody knows."""
OUTCOMES: Final = ("ok", "bad", *FAILURES)
ARGUMENTS: Final = (None, 1, "1", (1, 2), [1, 2], {1, 2}, {}, [])
MARK: Final = "@"
"""Between a text and the strand that said it."""


def dotted(site: tuple[int, ...]) -> str:
    """A site as text."""
    return ".".join(map(str, site))


def marked(text: str, strand: str) -> str:
    """A text as ``strand`` says it."""
    return f"{text}{MARK}{strand}" if strand else text


# Growing programs

Choose: TypeAlias = Callable[[int], int]
"""Returns a number below another; smaller ones make simpler programs."""


class Grower:
    """Makes programs of choices, which a generator of random numbers makes, or hypothesis."""

    def __init__(self, choose: Choose, size: int = 14) -> None:
        self._choose = choose
        self._left = size

    def program(self) -> Program:
        """A program."""
        body = self._body(4, 5, least=1)
        return Program(body, ("", "", "", "always", "once")[self._choose(5)], self._choose(4) == 3)

    def _body(self, depth: int, most: int = 3, least: int = 0) -> Body:
        count = least + self._choose(most)
        return tuple(self._action(depth) for _ in range(count) if self._left > 0)

    def _action(self, depth: int) -> Action:
        self._left -= 1
        kinds = self._LEAVES if depth == 0 else self._KINDS
        return kinds[self._choose(len(kinds))](self, depth - 1)

    def _text(self) -> str:
        return "ab"[self._choose(2)]

    def _name(self) -> str:
        return "st"[self._choose(2)]

    def _outward(self) -> tuple[int, bool]:
        code = self._choose(10)
        return max(0, code - 7), code == 6

    def _say(self, depth: int) -> Action:
        return Say(self._text(), *self._outward())

    def _note(self, depth: int) -> Action:
        return Note(self._text(), *self._outward())

    def _save(self, depth: int) -> Action:
        return Save("cd"[self._choose(2)], max(0, self._choose(6) - 4))

    def _outcomes(self) -> tuple[str, ...]:
        several = max(0, self._choose(4) - 1)
        return (*(OUTCOMES[self._choose(len(OUTCOMES))] for _ in range(several)), "ok")

    def _step(self, depth: int) -> Action:
        arg = ARGUMENTS[max(0, self._choose(len(ARGUMENTS) + 8) - 8)]
        outcomes = self._outcomes()
        to = max(0, self._choose(8) - 6)
        return Step(self._name(), self._body(depth), outcomes, arg, bool(self._choose(2)), to)

    def _run(self, depth: int) -> Action:
        by = ("order", "order", "key", "id")[self._choose(4)]
        return Run("rq"[self._choose(2)], self._body(depth), by)

    def _call(self, depth: int) -> Action:
        return Call("mn"[self._choose(2)], self._body(depth))

    def _retry(self, depth: int) -> Action:
        body = (*self._body(depth, least=1), *((Fail(1 + self._choose(2)),) if self._choose(2) else ()))
        return Retry(body, 2 + self._choose(2), self._choose(4) == 3)

    def _loop(self, depth: int) -> Action:
        return Loop(self._body(depth, least=1), 2 + self._choose(2), bool(self._choose(2)))

    def _try(self, depth: int) -> Action:
        body = (*self._body(depth, least=1), *((Fail(self._choose(3)),) if self._choose(2) else ()))
        return Try(body, self._body(depth))

    def _apart(self, depth: int) -> Action:
        return Apart(self._body(depth, least=1), bool(self._choose(2)))

    def _parallel(self, depth: int) -> Action:
        return Parallel(tuple(self._body(depth, least=1) for _ in range(2 + self._choose(2))))

    _LEAVES: Final = (_say, _say, _note, _save, _step, _say)
    _KINDS: Final = (
        _say, _say, _step, _step, _step, _note, _save, _run, _run, _call, _call, _retry, _retry, _loop, _try, _apart,
        _parallel,
    )  # fmt: skip


def grown(seed: int, size: int = 14) -> Program:
    """The program of a seed."""
    return Grower(random.Random(seed).randrange, size).program()


@st.composite
def programs(draw: st.DrawFn, size: int = 14) -> Program:
    """Programs that hypothesis makes and shrinks."""
    return Grower(lambda below: draw(st.integers(0, below - 1)), size).program()


# Shrinking


def _smaller_bodies(body: Body) -> Iterator[Body]:
    for n, action in enumerate(body):
        yield (*body[:n], *body[n + 1 :])
        for inner in _bodies_of(action):
            if inner:
                yield (*body[:n], *inner, *body[n + 1 :])
    for n, action in enumerate(body):
        for smaller in _smaller_actions(action):
            yield (*body[:n], smaller, *body[n + 1 :])


def _bodies_of(action: Action) -> tuple[Body, ...]:
    match action:
        case Parallel(strands):
            return strands
        case Try(body, handler):
            return (body, handler)
        case Step() | Run() | Call() | Retry() | Loop() | Apart():
            return (action.body,)
        case _:
            return ()


def _smaller_actions(action: Action) -> Iterator[Action]:
    simplest = type(action)()
    for field in attrs.fields(type(action)):
        value, default = getattr(action, field.name), getattr(simplest, field.name)
        if field.name in ("body", "handler"):
            for body in _smaller_bodies(value):
                yield attrs.evolve(action, **{field.name: body})
        elif field.name == "strands":
            for n, strand in enumerate(value):
                if len(value) > 2:
                    yield attrs.evolve(action, strands=(*value[:n], *value[n + 1 :]))
                for body in _smaller_bodies(strand):
                    yield attrs.evolve(action, strands=(*value[:n], body, *value[n + 1 :]))
        elif value != default:
            yield attrs.evolve(action, **{field.name: default})
            if field.name == "outcomes":
                for n in range(len(value) - 1):
                    yield attrs.evolve(action, outcomes=(*value[:n], *value[n + 1 :]))


def smaller_programs(program: Program) -> Iterator[Program]:
    """Programs that are a little simpler."""
    if program.handles:
        yield attrs.evolve(program, handles="")
    if program.tasks:
        yield attrs.evolve(program, tasks=False)
    for body in _smaller_bodies(program.body):
        yield attrs.evolve(program, body=body)


def varied(body: Body, rng: random.Random) -> Body:
    """The body of a program that is not determined: it says other things than before, or calls other steps.

    What is not varied keeps its site.
    """

    def vary(action: Action) -> Action:
        if isinstance(action, Say | Note | Save) and rng.random() < 0.4:
            return rng.choice((Try(), Say("c"), Say("a"), Note("a"), Save("c")))
        if isinstance(action, Step):
            return attrs.evolve(action, name="u") if rng.random() < 0.1 else action
        if isinstance(action, Parallel):
            return Parallel(tuple(tuple(map(vary, strand)) for strand in action.strands))
        changed = {
            name: tuple(map(vary, getattr(action, name))) for name in ("body", "handler") if hasattr(action, name)
        }
        return attrs.evolve(action, **changed)

    more = (Say("a"), Say("c")) if rng.random() < 0.5 else ()
    return (*map(vary, body), *more)


def nodes(body: Body) -> Iterator[Action]:
    """All nodes of a program."""
    for action in body:
        yield action
        for inner in _bodies_of(action):
            yield from nodes(inner)
