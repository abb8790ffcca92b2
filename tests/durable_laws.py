"""Random programs and what disturbs them, checked against the laws of durable runs, and shrunk where they fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from durable_ideal import ideal
from durable_language import Grower, Program, Run, nodes, smaller_programs, varied
from durable_player import Disturbance
from durable_subject import Subject

import crewbus

MOST = 12
"""How many processes carry out a run at most."""


@attrs.frozen
class Case:
    """A program, with a disturbance for each process that carries it out; then undisturbed ones go on to its end."""

    program: Program
    disturbances: tuple[Disturbance, ...] = ()
    at: str | None = None
    """The checkpoint from which the second process resumes, if there is one of that name."""
    then: Program | None = None
    """What the processes after the first one do instead: the program is not determined, and only law 1 holds."""
    fork: str | int | None = None
    """A checkpoint, or the number of a step that gets another result: the run is forked there in the end."""

    def check(self, store: crewbus.Store | None = None, run_id: str = "p") -> list[str]:
        """What is wrong, each with the number of the law; nothing, if the laws hold."""
        subject = Subject(self.program, store or crewbus.MemoryStore(), run_id, then=self.then)
        wrong = self._to_the_end(subject)
        if wrong or self.fork is None:
            return wrong
        fork = subject.fork(*((self.fork,) if isinstance(self.fork, str) else (None, self.fork)))
        return [f"{told} (in a fork)" for told in self._to_the_end(fork)] if fork is not None else []

    def _to_the_end(self, subject: Subject) -> list[str]:
        for number in range(MOST):
            is_disturbed = number < len(self.disturbances)
            subject.carry_out(
                self.disturbances[number] if is_disturbed else Disturbance(), self.at if number == 1 else None
            )
            if subject.is_over or (subject.outcome == "failed" and not is_disturbed):
                break
        return subject.compare()

    def __str__(self) -> str:
        lines = (
            "from durable_laws import *",
            "from durable_language import *",
            "",
            f"case = {brief(self)}",
            'print(*case.check(), sep="\\n")',
            "",
        )
        return "\n".join(lines)


def brief(value: Any) -> str:
    """The code that makes a value, without what is so by default."""
    if isinstance(value, tuple):
        return f"({', '.join(map(brief, value))}{',' * (len(value) == 1)})"
    if not attrs.has(type(value)):
        return repr(value)
    fields = ((one.name, getattr(value, one.name), one.default) for one in attrs.fields(type(value)))
    given = ", ".join(f"{name}={brief(given)}" for name, given, default in fields if given != default)
    return f"{type(value).__name__}({given})"


# Random cases


def random_case(seed: int, size: int = 14) -> Case:
    """The case of a seed."""
    rng = random.Random(f"{seed}/{size}")
    program = Grower(rng.randrange, size).program()
    shown = ideal(program)
    writes = 3 + len(shown.emissions) + 3 * len(shown.steps)
    disturbances = tuple(_disturbance(rng, writes, len(shown.steps)) for _ in range(1 + rng.randrange(3)))
    code = rng.random()
    if code < 0.1:
        return Case(program, disturbances, then=attrs.evolve(program, body=varied(program.body, rng)))
    if code < 0.15:
        return Case(program, disturbances, at=rng.choice("cd"))
    if code < 0.25 and not any(isinstance(node, Run) and node.by == "id" for node in nodes(program.body)):
        return Case(program, disturbances, fork=rng.choice(("c", "d", rng.randrange(4))))
    return Case(program, disturbances)


def _disturbance(rng: random.Random, writes: int, steps: int) -> Disturbance:
    lost, seed, code = rng.randrange(4), rng.randrange(8), rng.random()
    if code < 0.8:
        return Disturbance(crash=1 + rng.randrange(writes), lost=lost, seed=seed)
    if code < 0.9:
        return Disturbance(outage=1 + rng.randrange(max(1, steps)), seed=seed)
    kind = rng.choice(("stop", "cancel"))
    return Disturbance(**{kind: 1 + rng.randrange(max(1, writes // 2))}, seed=seed)


def refused_case(seed: int) -> Case:
    """The case of a seed, where the store refuses writes in place of each crash.

    No handler speaks: one that does not catch the refusal is reported, and what it would have said is not.
    """
    case = random_case(seed)
    refused = (attrs.evolve(one, lost=0, refused=1 + seed % 6 if one.crash else 0) for one in case.disturbances)
    return attrs.evolve(case, program=attrs.evolve(case.program, handles=""), disturbances=tuple(refused), then=None)


def suspended_case(seed: int) -> Case:
    """The case of a seed, where the run is suspended in place of each other crash."""
    case = random_case(seed)
    made = (
        attrs.evolve(one, crash=None, lost=0, suspend=one.crash) if one.crash and (n + seed) % 2 == 0 else one
        for n, one in enumerate(case.disturbances)
    )
    return attrs.evolve(case, disturbances=tuple(made))


# Shrinking


def smaller_cases(case: Case) -> Iterator[Case]:
    """Cases that are a little simpler."""
    made = case.disturbances
    for n in range(len(made)):
        yield attrs.evolve(case, disturbances=(*made[:n], *made[n + 1 :]))
    for name in ("at", "then", "fork"):
        if getattr(case, name) is not None:
            yield attrs.evolve(case, **{name: None})
    if case.then is not None:
        for number in range(min(len(case.program.body), len(case.then.body))):
            yield attrs.evolve(case, program=_without(case.program, number), then=_without(case.then, number))
        for then in smaller_programs(case.then):
            yield attrs.evolve(case, then=then)
    for program in smaller_programs(case.program):
        yield attrs.evolve(case, program=program)
    for n, one in enumerate(made):
        for smaller in _smaller_disturbances(one):
            yield attrs.evolve(case, disturbances=(*made[:n], smaller, *made[n + 1 :]))


def _without(program: Program, number: int) -> Program:
    return attrs.evolve(program, body=(*program.body[:number], *program.body[number + 1 :]))


def _smaller_disturbances(one: Disturbance) -> Iterator[Disturbance]:
    for field in attrs.fields(Disturbance):
        value = getattr(one, field.name)
        if value != field.default:
            yield attrs.evolve(one, **{field.name: field.default})
            if field.name != "seed":
                for less in range(1, min(value, 8)):
                    yield attrs.evolve(one, **{field.name: less})


def kind_of(wrong: list[str]) -> str:
    """What is wrong in a word, so that shrinking keeps to it."""
    return wrong[0].partition(":")[0] if wrong else ""


def shrunk(case: Case, check: Callable[[Case], list[str]] = Case.check, most: int = 2000) -> Case:
    """The simplest case found that fails as this one does, trying ``most`` others."""
    kind = kind_of(check(case))
    tried, better = 0, True
    while better and tried < most:
        better = False
        for smaller in smaller_cases(case):
            tried += 1
            if kind_of(check(smaller)) == kind:
                case, better = smaller, True
                break
            if tried >= most:
                break
    return case
