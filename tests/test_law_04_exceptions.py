"""Law 4 of durable runs: the exception of a failed step comes back as itself, or as `StepFailedError`."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from typing import Any

import attrs
import pytest
from helpers import TIMEOUT
from recorded_helpers import found

import crewbus
from crewbus import StepFailed, exceptions
from crewbus.durability import failures


@crewbus.register_exception
class Refused(Exception):
    """Its ``__init__`` takes other arguments than it passes on."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Declined(OSError):
    def __init__(self, card: str) -> None:
        super().__init__(13, f"{card} was declined", "cards.txt")
        self.card = card


@attrs.define
class Slotted(ValueError):
    code: int
    parts: tuple[int, ...]


class Unknown(Exception):
    pass


class Sent(Exception):
    def __init__(self, recipient: object) -> None:
        super().__init__("sent")
        self.recipient = recipient


class Versioned(Exception):
    pass


class Base(Exception):
    pass


class Derived(Base):
    pass


crewbus.register_exception(Sent, name="tests.Sent", structure=Sent, unstructure=lambda error: error.recipient)
crewbus.register_exception(Versioned, name="tests.Versioned", version=2, upgrades={1: lambda data: data})
crewbus.register_exception(Base, subclasses=True)


def noted(error: Exception, *notes: str) -> Exception:
    for note in notes:
        error.add_note(note)
    return error


def again(error: Exception, raises: tuple[type[Exception], ...] = ()) -> Exception:
    """``error`` as a resumed run raises it: as a record has it, which is JSON."""
    failed = failures.describe("pay", error, raises)
    assert (failed.error, failed.message) == (f"{type(error).__module__}.{type(error).__qualname__}", str(error))
    return failures.rebuild(attrs.evolve(failed, value=json.loads(json.dumps(failed.value))), raises)


def inside(error: Exception) -> Any:
    return [
        type(error),
        [inside(one) if isinstance(one, Exception) else repr(one) for one in error.args],
        str(error),
        vars(error),
    ]


SAME = [
    ValueError(),
    ValueError("wrong", 1, 2.5, None, True, [1, {"a": 2}], float("nan")),
    KeyError((1, "a")),
    KeyError(b"ab", {1: 2}, {3}, frozenset({4}), 2**14001 - 2**14001),
    TimeoutError("visa"),
    FileNotFoundError(2, "No such file", "a.txt"),
    ConnectionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    UnicodeEncodeError("ascii", "ß", 0, 1, "no"),
    ImportError("no", name="it", path="there"),
    SyntaxError("bad", ("file", 1, 2, "text", 1, 3)),
    ZeroDivisionError("division by zero"),
    RecursionError("deep"),
    StopIteration(3),
    noted(ValueError("x"), "a note", "another"),
    ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [KeyError("k")]), Refused(1, "x")]),
    Refused(402, "no funds"),
    Sent([1, {"to": "x"}]),
    Versioned("now"),
    Derived("below"),
    crewbus.StepFailedError("pay", "acme.Error", "no"),
    crewbus.ReplayMismatch("differs", expected="a", found="b", scope="run"),
    crewbus.ResultTimeoutError("late"),
]


@pytest.mark.parametrize("error", SAME, ids=lambda error: type(error).__name__)
def test_law_04_it_comes_back_as_itself(error: Exception) -> None:
    assert inside(again(error)) == inside(error)


def test_law_04_all_exceptions_of_python_and_crewbus_need_no_registration() -> None:
    for module in (builtins, exceptions):
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Exception) and cls.__init__ is Exception.__init__:
                assert type(again(cls("text"))) is cls


@pytest.mark.parametrize("error", [Declined("visa"), Slotted(1, (2, 3))], ids=lambda error: type(error).__name__)
def test_law_04_what_a_step_raises_comes_back_as_itself(error: Any) -> None:
    kind = type(error)
    found = again(error, (kind,))
    assert inside(found) == inside(error)
    if isinstance(error, Slotted):
        assert (found.code, found.parts) == (1, (2, 3))  # type: ignore[attr-defined]
    else:
        assert (found.errno, found.filename, found.card) == (13, "cards.txt", "visa")  # type: ignore[attr-defined]
    assert type(again(error)) is crewbus.StepFailedError


class Mute(ValueError):
    def __str__(self) -> str:
        return str(len(self.args)) if self.args else "mute"

    def __reduce__(self) -> Any:
        raise AssertionError("not asked")


def looping() -> Exception:
    error = ValueError()
    error.args = (error,)
    return error


def changed() -> Exception:
    error = Refused(1, "x")
    error.client = object()  # type: ignore[attr-defined]
    return error


LOST = [
    Unknown("x"), ValueError(object()), ExceptionGroup("one", [Unknown()]), changed(), Sent(object()), Sent((1, 2)),
    ValueError("x" * 100_000), ValueError("\ud83d\ude00"), looping(),
]  # fmt: skip


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_law_04_what_would_not_come_back_equal_is_a_step_failed_error(error: Exception) -> None:
    failed = failures.describe("pay", error)
    assert (failed.value, failed.type, failed.version) == (None, None, 0)
    back = failures.rebuild(failed)
    assert type(back) is crewbus.StepFailedError
    assert (back.step, back.error, back.message) == ("pay", failed.error, failed.message)
    assert f"step 'pay' failed with {failed.error}: {failed.message}" in str(back)
    assert "crewbus.register_exception()" in str(back)


def test_law_04_nothing_is_called_that_the_record_names() -> None:
    """Promise 12: the exception's own ``__reduce__`` and ``__init__`` are not used, and nothing is imported."""
    assert inside(again(Mute("a", "b"), (Mute,))) == inside(Mute("a", "b"))
    for name in ("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.int", "no.such"):
        failed = StepFailed("pay", name, "text", {"args": ["id"]}, name, 1)
        assert type(failures.rebuild(failed)) is crewbus.StepFailedError


@pytest.mark.parametrize(
    "value", [None, 1, [], {}, {"args": 1}, {"args": [{"eval": []}]}, {"args": [], "attributes": 1}]
)
def test_law_04_damaged_data_is_an_error(value: Any) -> None:
    with pytest.raises(crewbus.DecodeError, match=r"builtins\.ValueError version 0"):
        failures.rebuild(StepFailed("pay", "builtins.ValueError", "x", value, "builtins.ValueError", 0))


def test_law_04_a_newer_version_is_refused_and_an_older_one_is_upgraded() -> None:
    failed = failures.describe("pay", Versioned("x"))
    assert failed.version == 2
    assert str(failures.rebuild(attrs.evolve(failed, version=1))) == "x"
    with pytest.raises(crewbus.DecodeError, match="registered as version 2"):
        failures.rebuild(attrs.evolve(failed, version=3))


def test_law_04_structure_returns_such_an_exception() -> None:
    crewbus.register_exception(Unregistered, structure=lambda data: ValueError(), unstructure=lambda error: 1)
    assert failures.describe("pay", Unregistered()).type is None
    with pytest.raises(crewbus.DecodeError, match="no Unregistered"):
        failures.rebuild(StepFailed("pay", "x", "x", 1, f"{__name__}.Unregistered", 1))


class Unregistered(Exception):
    pass


@pytest.mark.parametrize("wrong", [int, BaseException, KeyboardInterrupt])
def test_law_04_only_exceptions_are_registered_or_named(wrong: Any) -> None:
    with pytest.raises(crewbus.EventTypeError, match="a subclass of Exception"):
        crewbus.register_exception(wrong)
    for raises in (wrong, (ValueError, wrong), [ValueError]):
        with pytest.raises(crewbus.StepError, match="raises= takes a subclass of Exception"):
            crewbus.step(raises=raises)(lambda: None)


def test_law_04_a_recorded_failure_holds_its_exception(bus: crewbus.Bus) -> None:
    @crewbus.step(raises=Declined)
    def pay() -> None:
        raise Declined("visa")

    with bus.run(id="run"), pytest.raises(Declined):
        pay()
    (failed,) = (one.event for one in found(bus, "run", StepFailed))
    assert inside(failures.rebuild(failed, (Declined,))) == inside(Declined("visa"))
    assert "crewbus" not in str(failed.value)


def test_law_04_an_unrecorded_failure_holds_only_the_text() -> None:
    seen: list[StepFailed] = []
    with crewbus.Bus(entry_points=False) as bus:
        bus.on(StepFailed)(lambda envelope: seen.append(envelope.event))
        with bus.run() as run, pytest.raises(ValueError, match="x"):
            run.step("fails", lambda: int("x"))
    assert [one.type for one in seen] == [None]


def test_law_04_a_script_names_its_exceptions_after_its_file(tmp_path: Any) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        "import crewbus\n"
        "from crewbus.durability import failures\n"
        "class Refused(Exception): pass\n"
        "print(failures.describe('pay', Refused(), (Refused,)).type)\n"
        "crewbus.register_exception(Refused)\n"
        "print(failures.describe('pay', Refused()).type)\n"
    )
    output = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True, timeout=TIMEOUT)
    assert output.stdout.split() == ["agent.Refused", "agent.Refused"]
