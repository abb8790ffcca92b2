"""Certain programs, one for each thing that went wrong once; with disturbances where it takes more than one crash."""

from __future__ import annotations

from typing import Final

from durable_language import (
    Apart,
    Call,
    Fail,
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
)
from durable_laws import Case
from durable_player import Disturbance

PROGRAMS: Final[dict[str, Program]] = {
    "a step tried again": Program((Loop((Step(outcomes=("KnownError", "ok")),), 3), Say("a"), Save("c"), Say("a"))),
    "another step instead": Program(
        (
            Try((Step("s", outcomes=("ValueError",), arg=1),), (Step("s", (Say("b"),), arg="1"),)),
            Step("t", (Say(),)),
            Say(),
        )
    ),
    "an unknown failure": Program((Try((Step("s", (Say(),), ("UnknownError",)),), (Say("b"), Step("t"))), Step("t"))),
    "a refused answer": Program((Retry((Say("a"), Step("s", (Say("b"),), ("bad", "bad", "ok"))), 3), Say("b"))),
    "a refused answer in a call": Program(
        (Call("m", (Retry((Say("a"), Step("s", (Say("b"),), ("bad", "ok")))),)), Say())
    ),
    "an attempt that fails by itself": Program(
        (Retry((Step("s", (Say("a"),)), Say("b"), Fail(1))), Step("t", (Say("b"),)), Say("a"))
    ),
    "attempts in attempts": Program((Retry((Say(), Retry((Say("b"), Step(), Fail(1))), Step("t"), Fail(1))), Say("b"))),
    "attempts in a step": Program((Step("s", (Retry((Say(), Step("t", (Say("b"),)), Fail(1))), Say())), Say())),
    "said to an outer run": Program(
        (Run("r", (Step("s", (Say("a", 1), Note("b", 1))), Say("b", 1))), Say("a"), Say("b"))
    ),
    "saved in an outer run": Program((Run("r", (Step("s", (Save("c", 1),)),)), Say("a"), Save("d"))),
    "said by a bare thread": Program((Step("s", (Say("a", 0, True), Say("b", 0, True))), Say("a"), Say("b"))),
    "equal texts": Program(
        (Say(), Step("s", (Say(), Say())), Say(), Run("r", (Say(), Step("s", (Say(),)))), Say(), Say())
    ),
    "equal runs": Program((Loop((Run("r", (Step("s", (Say(),)), Say("b"))),), 3, True), Say())),
    "runs by key": Program((Run("r", (Step(),), "key"), Run("r", (Step(),), "id"), Run("r", (Step(),)), Say())),
    "calls": Program((Call("m", (Say(), Step("s", (Say("b"),)), Call("n", (Say(),)))), Call("m", (Say(),)), Step("t"))),
    "a failing call": Program((Try((Call("m", (Say(), Step(), Fail(1))),), (Say("b"), Step("t"))), Say())),
    "a failing run": Program((Try((Run("r", (Say(), Step(), Fail(1))),), (Say("b"), Step("t"))), Say())),
    "steps in steps": Program((Step("s", (Say(), Step("t", (Say("b"), Step())), Say())), Step("s", (Say(),)), Say())),
    "a handler": Program((Note("a"), Run("r", (Step("s", (Note("b"),)),)), Note("a"), Say()), "always"),
    "a handler that skips what is replayed": Program((Note("a"), Run("r", (Step("s", (Note("b"),)),)), Say()), "once"),
    "strands": Program(
        (
            Say(),
            Parallel(((Say(), Step("s", (Say("b"),)), Say()), (Step("s", (Say(), Step("t"), Say("b"))),))),
            Save(),
            Say(),
        )
    ),
    "runs in strands": Program(
        (Parallel(((Run("r", (Step("s", (Say(),)),)),), (Run("r", (Step("s", (Say(),)),)),))), Say())
    ),
    "tasks": Program(
        (Say(), Parallel(((Say(), Step("s", (Say("b"),))), (Run("r", (Step("s", (Say(), Say("b"))),)),))), Say()),
        "",
        True,
    ),
    "threads": Program((Apart((Say(), Step("s", (Say("b"),)))), Apart((Step("s"), Say()), True), Say())),
    "a run that fails": Program((Step("s", (Say(),)), Say("b"), Fail(1), Say())),
    "a step that fails": Program((Say(), Step("s", (Say("b"), Step("t", (Say(),)), Say("b")), ("KnownError",)), Say())),
    "a step of an outer run": Program((Run("r", (Step("s", (Say(),), to=1), Say("b"))), Step("s"), Say())),
}

CASES: Final[dict[str, Case]] = {
    "rejected in a call that was left open": Case(
        Program((Retry((Call("m", (Retry((Note(), Fail(2))), Retry((Say(),)))), Fail())),), "always"),
        (Disturbance(crash=8), Disturbance(crash=15)),
    ),
    "rejected in a call that was left open, by an attempt that fails again": Case(
        Program((Call("m", (Retry((Step("s", (Say(),)), Note(), Call(), Fail())),)),), "once"),
        (Disturbance(crash=14),),
    ),
    "a call and a run in an attempt that fails again": Case(
        Program((Call("m", (Retry((Step("s", (Say(),)), Call("n", (Say("b"),)), Run("r", (Say(),)), Fail())),)),)),
        (Disturbance(crash=18),),
    ),
    "attempts in an attempt that fails again": Case(
        Program((Call("m", (Retry((Step("s", (Say(),)), Retry((Say("b"), Fail())), Fail())),)),)),
        (Disturbance(crash=14),),
    ),
    "rejected in a step that an attempt goes on with": Case(
        Program((Retry((Step("s", (Retry((Say(), Fail())),)), Step("t"))),)), (Disturbance(outage=2),)
    ),
    "an outage before a fork": Case(
        Program((Retry((Run("r", (Say(),)), Step("s", (Say(),)))),)), (Disturbance(outage=1),), fork=0
    ),
    "an outage in an attempt in a step that fails": Case(
        Program((Step("s", (Retry((Say(), Step("s", (Step(),)))),), ("UnknownError", "ok")),)),
        (Disturbance(outage=2),),
    ),
    "an attempt that goes on fails again": Case(
        Program((Retry((Say("b"), Step("s", (Say(), Step()), ("ValueError", "DeclaredError", "ok"))), 3),)),
        (Disturbance(outage=1), Disturbance(outage=3)),
    ),
    "an attempt that goes on crashes, and fails": Case(
        Program((Retry((Step("s", (Step("s", (Say(),)),)), Fail())),)), (Disturbance(outage=2), Disturbance(crash=5))
    ),
    "a step recalled in a new attempt that fails": Case(
        Program(
            (
                Parallel(
                    (
                        (Retry((Step("s", (Step("s", (Say(),)),), ("ValueError", "ok")), Fail())),),
                        (Retry((Fail(2),)),),
                    )
                ),
            )
        ),
        (Disturbance(crash=20, seed=4),),
    ),
    "an outage in a step that fails afterwards, and is called again": Case(
        Program((Retry((Loop((Step("s", (Step("s", (Step(), Say())),), ("UnknownError", "ok")),)),)),)),
        (Disturbance(outage=3),),
    ),
    "an outage in a step of a step that fails afterwards": Case(
        Program((Retry((Loop((Step("s", (Step("s", (Step("s", (Step(), Say())),)),), ("UnknownError", "ok")),)),)),)),
        (Disturbance(outage=3),),
    ),
    "an outage in one of two strands": Case(
        Program((Parallel(((Step("s", (), ("bad", "ok")),), (Step(), Say()))),)), (Disturbance(outage=1),)
    ),
    "a checkpoint in a step that was tried again": Case(
        Program((Loop((Step("s", (Step("t", (Say(),)), Save(), Step("t", (Say(),))), ("ValueError", "ok")),)),)),
        (Disturbance(crash=12),),
        at="c",
    ),
    "a step of an outer run in an attempt that goes on": Case(
        Program((Retry((Run("r", (Say(), Step("s", (Retry((Say("b"),)),), to=1))),)),)), (Disturbance(outage=1),)
    ),
    "an attempt goes on in a nested run": Case(
        Program((Retry((Run("r", (Say(), Retry((Step("s", (), ("KnownError", "ok")),)))),)),)),
        (Disturbance(outage=1), Disturbance(crash=9)),
    ),
    "said to an outer run in an attempt in a nested run": Case(
        Program(
            (
                Step(
                    "s",
                    (Retry((Run("r", (Retry((Say("a", 2),)),)), Step(), Say(), Fail(2))),),
                    ("UnknownError", "ok"),
                ),
            )
        ),
        (Disturbance(),),
    ),
    "equal calls in an attempt and beside it": Case(
        Program(
            (
                Parallel(
                    (
                        (Call("n", (Step(),)), Retry((Call("m", (Step("s", (Say(), Say())),)), Fail()))),
                        (Call("m", (Call("m", (Parallel(((Say(), Save(), Say()), (), ())),)),)),),
                    )
                ),
            )
        ),
        (Disturbance(crash=18, seed=6),),
    ),
    "equal calls at once, of which one had ended": Case(
        Program((Parallel(((Call(body=(Say(),)),), (Call(body=(Call(),)),))),)), (Disturbance(crash=4, seed=2),)
    ),
    "equal calls at once, of which one begins after a stop": Case(
        Program((Parallel(((Call(body=(Say(),)),), (Fail(),), (Call(body=(Step(),)),))),)),
        (Disturbance(stop=5, seed=7),),
    ),
    "said to an outer run in an attempt that goes on": Case(
        Program((Retry((Run("r", (Say("a", 2),)), Step())),)), (Disturbance(outage=1), Disturbance(crash=5))
    ),
    "a fork from before the failure that names its steps": Case(
        Program((Loop((Parallel(((Step(),), (Step(outcomes=("ValueError", "ok")),))),)),)),
        (Disturbance(outage=3, seed=3),),
        fork=3,
    ),
    "an attempt that failed anew beside an equal one": Case(
        Program((Parallel(((Retry((Retry(), Fail())),), (Retry((Say(),)), Fail()))),)), (Disturbance(seed=4),)
    ),
    "an attempt that failed anew beside two equal ones": Case(
        Program((Parallel(((Retry((Retry(), Fail())),), (Retry((Say(),)),), (Fail(),))),)), (Disturbance(seed=3),)
    ),
    "equal calls in equal attempts, of which one fails": Case(
        Program(
            (
                Parallel(
                    (
                        (Retry((Call("m", (Say(), Say(), Say())), Step(), Say(), Fail())),),
                        (Retry((Step(), Say(), Call("m", (Say(),)))),),
                        (Step("s", (Step(), Step())),),
                    )
                ),
            )
        ),
        (Disturbance(crash=23, lost=1, seed=4),),
    ),
    "a step in one of two equal calls in equal attempts": Case(
        Program(
            (
                Parallel(
                    (
                        (Step(), Step(), Retry((Call("m", (Step(),)), Fail()))),
                        (Step(), Step(), Retry((Call("m", (Say(),)),))),
                    )
                ),
            )
        ),
        (Disturbance(outage=5, seed=5),),
    ),
    "an attempt in which nothing had happened, and an outage later": Case(
        Program((Try((Retry((Retry((Say(), Step(), Fail())),)), Fail()), (Save("d"),)),)),
        (Disturbance(crash=2), Disturbance(outage=2)),
        fork="d",
    ),
    "a call in an attempt in which nothing had happened, and an outage later": Case(
        Program((Try((Retry((Call("m", (Say(), Step(), Fail())),)), Fail()), (Save("d"),)),)),
        (Disturbance(crash=2), Disturbance(outage=2)),
        fork="d",
    ),
    "a step of an attempt that is recalled where a resume went on": Case(
        Program((Retry((Retry((Step("s", (Say(),)),)), Step())), Save("d"))),
        (Disturbance(outage=1), Disturbance(outage=2)),
        fork="d",
    ),
    "attempts in equal attempts at once, and an outage after a crash": Case(
        Program((Parallel(((Retry((Retry((Step("s", (Say(),)), Step())),)),), (Retry((Retry((Step(),)),)),))),)),
        (Disturbance(crash=11, seed=1), Disturbance(outage=2, seed=5)),
    ),
}
