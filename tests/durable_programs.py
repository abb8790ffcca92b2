"""Programs for the model of durable runs: trees of actions, grown from bytes, and what they show if nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

ALWAYS: Final = 1_000


class Say(NamedTuple):
    """Stream a chunk."""

    text: str


class Note(NamedTuple):
    """Emit an event that goes to no stream."""

    text: str


class Save(NamedTuple):
    """Make a checkpoint."""

    name: str


class Step(NamedTuple):
    """Do the body once, ever. Its first ``fails`` executions fail at the end; the program then calls it again."""

    name: str
    body: tuple[Action, ...] = ()
    key: str = ""
    fails: int = 0
    uid: str = ""
    """What distinguishes it from all other steps of the program."""


class Try(NamedTuple):
    """A step that always fails, and what is done in its place."""

    step: Step
    instead: Step


class Run(NamedTuple):
    """A nested run."""

    name: str
    body: tuple[Action, ...] = ()


class Call(NamedTuple):
    """A call of a model: it belongs to the scope around it."""

    name: str
    body: tuple[Action, ...] = ()


class Break(NamedTuple):
    """Fail the run: raise, the first ``times`` times that it comes to this."""

    name: str
    times: int = 1


class Apart(NamedTuple):
    """Steps in threads of their own, while the scope's own thread continues with ``meanwhile``."""

    steps: tuple[Step, ...]
    meanwhile: tuple[Action, ...] = ()


Action: TypeAlias = Say | Note | Save | Step | Try | Run | Call | Break | Apart
Program: TypeAlias = tuple[Action, ...]


class FailureError(Exception):
    """A step failed."""


class BreakError(Exception):
    """The program failed, in a way that it does not catch."""


# Random ones


class Grown:
    """A program read from bytes, which hypothesis draws and shrinks faster than it does trees."""

    LEAVES = (Say(""), Say(""), Note(""), Save(""))

    def __init__(self, codes: bytes) -> None:
        self._codes = iter(codes)

    def program(self) -> Program:
        return tuple(self._action(3, loud=True) for _ in range(1 + self._next(6)))

    def _next(self, below: int) -> int:
        return next(self._codes, 0) % below

    def _body(self, depth: int, loud: bool, most: int = 4) -> Program:
        return tuple(self._action(depth - 1, loud) for _ in range(self._next(most)))

    def _action(self, depth: int, loud: bool) -> Any:
        """An action; a ``loud`` one may end the whole run, or start threads."""
        code = self._next(12 if loud else 10) if depth else 0
        if code < 4:
            return self.LEAVES[self._next(4)]
        if code < 7:
            return self._step(depth, loud)
        if code == 7:
            return Run(self._name(), self._body(depth, loud))
        if code == 8:
            return Call(self._name(), self._body(depth, loud))
        if code == 9:
            inner = tuple(self._step(1, False) if self._next(2) else Say("") for _ in range(self._next(4)))
            return Try(Step("", inner, fails=ALWAYS), self._step(depth, loud))
        if code == 10:
            return Break("", 1 + self._next(2))
        return Apart(tuple(self._step(depth, False) for _ in range(1 + self._next(2))), self._body(depth, False))

    def _step(self, depth: int, loud: bool) -> Step:
        fails = max(0, self._next(6) - 3)
        return Step(self._name(), self._body(depth, loud), fails=fails)

    def _name(self) -> str:
        return ("", "read", "write")[self._next(3)]


class Naming:
    """Gives each action of a program a text of its own, so that frames and executions are distinguishable."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, program: Program) -> Program:
        return tuple(self._named(action) for action in program)

    def _fresh(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self._count}"

    def _named(self, action: Any, key: str = "") -> Any:
        match action:
            case Say() | Note() | Save() | Break():
                return type(action)(self._fresh(type(action).__name__[0].lower()), *action[1:])
            case Step():
                uid = self._fresh(action.name or "step")
                return action._replace(name=action.name or uid, body=self(action.body), uid=uid, key=key)
            case Try(step, instead):
                return Try(self._named(step), self._named(instead))
            case Apart(parallel, meanwhile):
                return Apart(tuple(self._named(step, self._fresh("k")) for step in parallel), self(meanwhile))
            case _:
                return action._replace(name=action.name or self._fresh("n"), body=self(action.body))


# What an undisturbed run shows

Place = tuple[tuple[int, int], ...]
"""In which threads a frame was emitted, outermost first: which `Apart`, and which strand of it."""


def frames(program: Program, place: Place = ()) -> Iterator[tuple[str, Place]]:
    """The texts of an undisturbed run and their places, in the order of the program."""
    for action in program:
        match action:
            case Say(text):
                yield text, place
            case Step() | Run() | Call():
                yield from frames(action.body, place)
            case Try(step, instead):
                yield from frames((*before_the_last_step(step.body), instead), place)
            case Apart(parallel, meanwhile):
                for number, strand in enumerate([meanwhile, *((step,) for step in parallel)]):
                    yield from frames(strand, (*place, (id(action), number)))


def before_the_last_step(body: Program) -> Program:
    """What stays of a step that failed: all up to the end of the last step directly in it."""
    steps = [number for number, action in enumerate(body) if isinstance(action, Step)]
    return body[: steps[-1] + 1] if steps else ()


def ordered(one: Place, other: Place) -> bool:
    """Whether the program says which of two frames comes first: they don't stand in two strands of one `Apart`."""
    for (apart, strand), (other_apart, other_strand) in zip(one, other, strict=False):
        if (apart, strand) != (other_apart, other_strand):
            return apart != other_apart
    return True


def assert_undisturbed(program: Program, texts: list[str]) -> None:
    """``texts`` are those of an undisturbed run, each once, as far as the program orders them."""
    expected = list(frames(program))
    assert sorted(texts) == sorted(text for text, _ in expected)
    at = {text: number for number, text in enumerate(texts)}
    for number, (text, place) in enumerate(expected):
        for later, other in expected[number + 1 :]:
            assert not ordered(place, other) or at[text] < at[later], f"{later} before {text} in {texts}"


def result_of(program: Program, edits: dict[str, Any]) -> Any:
    """What an undisturbed run returns, the results of some steps being edited."""
    results: list[Any] = []
    for action in program:
        match action:
            case Step(name):
                results.append(edits.get(name, (name, action.key, result_of(action.body, edits))))
            case Run(name):
                results.append((name, result_of(action.body, edits)))
            case Call():
                results.append(result_of(action.body, edits))
            case Try():
                results += result_of((action.instead,), edits)
            case Apart(parallel, meanwhile):
                results.append((result_of(meanwhile, edits), *result_of(parallel, edits)))
    return tuple(results)


def editable(program: Program) -> Iterator[str]:
    """The names of the steps that are named once, and not part of one that fails."""
    for action in program:
        match action:
            case Step(name, body):
                if name == action.uid:
                    yield name
                if not action.fails:
                    yield from editable(body)
            case Run() | Call():
                yield from editable(action.body)
            case Apart(parallel, meanwhile):
                yield from editable((*meanwhile, *parallel))
