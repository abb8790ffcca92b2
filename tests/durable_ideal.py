"""What a program shows if nothing disturbs it: a reference interpreter, which uses nothing of crewbus.

It gives the result, what each run says, what is emitted in all, and the steps by their places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
from durable_language import (
    FAILURES,
    Apart,
    Body,
    Call,
    Fail,
    HandledError,
    InvalidError,
    Loop,
    Note,
    Parallel,
    Program,
    Retry,
    Run,
    Save,
    Say,
    Step,
    Try,
    dotted,
    marked,
    nodes,
)


class FailureError(HandledError):
    """A step failed."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def name_of(error: BaseException) -> str:
    """The name of an error that a program handles."""
    return error.name if isinstance(error, FailureError) else type(error).__name__


@attrs.define(eq=False)
class Scope:
    """What an emission belongs to, with the attempts and steps that take it back if they fail."""

    run: str
    """The place of the run."""
    attempts: tuple[Scope, ...] = ()
    runs: tuple[str, ...] = ()
    """The places of the runs around it, its own among them: those whose streams get what it says."""
    boundary: int = 0
    """Of a step: how many emissions precede the end of the last step in it."""

    def inside(self) -> Scope:
        """A scope in it."""
        return Scope(self.run, self.attempts, self.runs)

    def tried(self) -> Scope:
        """An attempt in it, or a step, that takes back what it says if it fails."""
        made = self.inside()
        made.attempts = (*self.attempts, made)
        return made


@attrs.define(eq=False)
class Emission:
    """Something emitted."""

    kind: str
    text: str
    scope: Scope
    valid: bool = True


@attrs.define(eq=False)
class Home:
    """A run or step: what counts how often the code comes to each site."""

    place: str
    visits: Counter[tuple[Any, ...]] = attrs.field(factory=Counter)

    failed: dict[tuple[str, ...], Scope] = attrs.field(factory=dict)
    """What the last of equal steps said before it failed: retracted when another one follows."""

    def visit(self, site: tuple[Any, ...]) -> int:
        """How often the code came to a site before, in it or in a run in it."""
        self.visits[site] += 1
        return self.visits[site] - 1


@attrs.frozen
class Here:
    """Where the code is."""

    home: Home
    scope: Scope
    runs: tuple[tuple[Scope, Home], ...]
    """The runs around, innermost last, its own among them."""
    reach: int = 0
    """How many runs further out can be asked for steps: no step lies between. -1 in a step."""
    strand: str = ""
    steps: tuple[Scope | None, ...] = (None,)
    """For each of these runs, the innermost step in progress in it."""
    in_call: bool = False
    """Whether it is in a call of its home."""


@attrs.define(eq=False)
class Ideal:
    """What a program shows."""

    handles: str = ""
    edits: Mapping[str, Any] = attrs.field(factory=dict)
    """Other results of steps, by place."""
    emissions: list[Emission] = attrs.field(factory=list)
    steps: dict[str, str] = attrs.field(factory=dict)
    """The outcome of each step that is executed, by place, in order of their starts."""
    names: dict[str, str] = attrs.field(factory=dict)
    """The names of these steps."""
    result: Any = None
    error: str = ""
    """What the run fails with, if it does."""
    is_determined: bool = True
    """Whether what it says does not depend on how strands take turns: a step that fails keeps what precedes the end of
    the last step in it, whichever strand said that."""

    def texts(self, run: str = "") -> list[str]:
        """What a run says, with the runs in it, in the end; the root run is ``""``."""
        return [one.text for one in self.emissions if one.valid and one.kind == "Say" and run in one.scope.runs]

    def runs(self) -> list[str]:
        """The places of the nested runs that said something."""
        return list(dict.fromkeys(run for one in self.emissions for run in one.scope.runs))

    def counts(self, kind: str) -> Counter[str]:
        """How often each text was emitted, whether it stayed or not."""
        return Counter(one.text for one in self.emissions if one.kind == kind)

    # Interpreting

    def body(self, actions: Body, here: Here, site: tuple[int, ...]) -> list[Any]:
        """Do the actions, and collect what they return."""
        results = (self._do(action, here, (*site, n)) for n, action in enumerate(actions))
        return [result for result in results if result is not None]

    def _do(self, action: Any, here: Here, site: tuple[int, ...]) -> Any:
        match action:
            case Say() | Note() | Save():
                return self._emit(action, here)
            case Step():
                return self._step(action, here, site)
            case Run():
                return self._run(action, here, site)
            case Call(_, body):
                return self.body(body, attrs.evolve(here, scope=here.scope.inside(), in_call=True), site)
            case Fail(times):
                if here.home.visit(site) < times:
                    raise InvalidError(f"at {here.home.place}/{dotted(site)}")
                return None
            case Retry():
                return self._retry(action, here, site)
            case Loop():
                return self._loop(action, here, site)
            case Try(body, handler):
                try:
                    return self.body(body, here, (*site, 0))
                except HandledError as error:
                    return ["caught", name_of(error), str(error), self.body(handler, here, (*site, 1))]
            case Apart(body):
                return self.body(body, here, site)
            case Parallel(strands):
                return self._parallel(strands, here, site)

    def _emit(self, action: Say | Note | Save, here: Here) -> None:
        at = max(0, len(here.runs) - 1 - action.to)
        to = here.runs[at][0]
        is_bare = not isinstance(action, Save) and action.bare and not here.strand and not here.in_call
        if is_bare:
            step = here.steps[at]
            scope = to if step is None else Scope(to.run, step.attempts, to.runs)
        elif to.run == here.scope.run:
            scope = here.scope
        else:  # it belongs to the code that emits it, and is told to those who listen further out
            scope = Scope(to.run, here.scope.attempts, to.runs)
        text = action.name if isinstance(action, Save) else action.text
        text = marked(text, here.strand)
        self.emissions.append(Emission(type(action).__name__, text, scope))
        if isinstance(action, Note) and self.handles and not is_bare:
            self.emissions.append(Emission("Say", "!" + text, here.scope))

    def _step(self, step: Step, here: Here, site: tuple[int, ...]) -> Any:
        runs, home, scope = here.runs, here.home, here.scope
        if step.to and here.reach > 0:
            runs = runs[: len(runs) - min(step.to, here.reach)]
            scope, home = runs[-1]
        visit = home.visit((here.home.place, *site))
        place = f"{here.home.place}/{dotted(site)}#{visit}"
        outcome = step.outcomes[min(visit, len(step.outcomes) - 1)]
        self.steps[place], self.names[place] = outcome, step.name
        equal = (step.name, repr(step.arg), here.strand)
        if equal in home.failed:
            self._take_back(home.failed.pop(equal), 0)
        tried = scope.tried()
        tried.boundary = len(self.emissions)
        inner = Here(Home(place), tried, runs, -1, here.strand, (*here.steps[: len(runs) - 1], tried))
        try:
            results = self.body(step.body, inner, ())
            if outcome in FAILURES:
                raise FailureError(outcome, f"{outcome} at {place}")
        except HandledError:
            self.is_determined &= not any(isinstance(node, Parallel) for node in nodes(step.body))
            self._take_back(tried, tried.boundary)
            home.failed[equal] = tried
            raise
        for around in scope.attempts:
            around.boundary = len(self.emissions)
        value = self.edits.get(place, [place, outcome, results])
        if value[1] == "bad":
            raise InvalidError(f"refused {place}")
        return value

    def _take_back(self, tried: Scope, since: int) -> None:
        for one in self.emissions[since:]:
            if tried in one.scope.attempts:
                one.valid = False

    def _run(self, run: Run, here: Here, site: tuple[int, ...]) -> Any:
        place = f"{here.home.place}/{run.name}{dotted(site)}#{here.home.visit(site)}"
        scope, home = Scope(place, here.scope.attempts, (*here.scope.runs, place)), Home(place)
        runs = (*here.runs, (scope, home))
        inner = Here(home, scope, runs, here.reach + 1, here.strand, (*here.steps, None))
        return [run.name, self.body(run.body, inner, ())]

    def _retry(self, retry: Retry, here: Here, site: tuple[int, ...]) -> Any:
        error: HandledError | None = None
        for _ in range(retry.times):
            tried = here.scope.tried()
            since = len(self.emissions)
            try:
                return self.body(retry.body, attrs.evolve(here, scope=tried), site)
            except HandledError as failed:
                self._take_back(tried, since)
                error = failed
        assert error is not None
        if retry.raises:
            raise error
        return ["gave up", name_of(error)]

    def _loop(self, loop: Loop, here: Here, site: tuple[int, ...]) -> Any:
        results: list[Any] = []
        for _ in range(loop.times):
            try:
                results += self.body(loop.body, here, site)
            except HandledError as error:
                results.append(["caught", name_of(error)])
            else:
                if not loop.always:
                    break
        return results

    def _parallel(self, strands: tuple[Body, ...], here: Here, site: tuple[int, ...]) -> Any:
        results: list[Any] = []
        errors: list[HandledError] = []
        for n, body in enumerate(strands):
            strand = f"{here.strand}{dotted(site)}:{n};"
            try:
                results.append(self.body(body, attrs.evolve(here, strand=strand), (*site, n)))
            except HandledError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return results


def ideal(program: Program, edits: Mapping[str, Any] | None = None) -> Ideal:
    """What a program shows if nothing disturbs it, some steps having other results."""
    shown = Ideal(program.handles, edits or {})
    scope, home = Scope("", (), ("",)), Home("")
    try:
        shown.result = shown.body(program.body, Here(home, scope, ((scope, home),)), ())
    except HandledError as error:
        shown.error = name_of(error)
    return shown
