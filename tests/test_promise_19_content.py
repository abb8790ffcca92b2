"""Promise 19: a call describes itself; what it is given and returns is recorded on request only, once redacted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from helpers import quiet_bus

import crewbus
from crewbus import CallCancelled, CallFailed, CallFinished, CallStarted


def ask(bus: crewbus.Bus, **options: Any) -> None:
    with bus.call("gpt", kind="model", attributes={"provider": "acme"}, input="the question", **options) as call:
        call.set_attributes(finish_reason="stop")
        call.finish("the answer", {"input_tokens": 2, "output_tokens": 1}, 0.5)


STARTED = CallStarted("gpt", "model", {"provider": "acme"}, "the question")
FINISHED = CallFinished(
    "the answer", {"input_tokens": 2, "output_tokens": 1}, 0.5, {"provider": "acme", "finish_reason": "stop"}
)


def recorded(bus: crewbus.Bus) -> list[Any]:
    with bus.run() as run:
        ask(bus)
    return [envelope.event for envelope in bus.record_of(run.id)][1:-1]


def test_promise_19_a_call_describes_itself() -> None:
    seen: list[Any] = []
    with quiet_bus() as bus:
        ask(bus, callbacks=[lambda envelope: seen.append(envelope.event)])
    assert seen == [STARTED, FINISHED]


def test_promise_19_no_content_is_recorded_unless_somebody_asks_for_it() -> None:
    with quiet_bus() as bus:
        bus.enable_recording()
        assert recorded(bus) == [attrs.evolve(STARTED, input=None), attrs.evolve(FINISHED, output=None)]
        bus.enable_recording(content=True)
        assert recorded(bus) == [STARTED, FINISHED]


def test_promise_19_what_no_record_holds_need_not_be_json() -> None:
    with quiet_bus() as bus:
        bus.enable_recording()
        with bus.run(), bus.call("gpt", input=object()) as call:
            call.finish(object())
        bus.enable_recording(content=True)
        with bus.run(), pytest.raises(crewbus.UnserializableError, match="input"), bus.call("gpt", input=object()):
            pass


def test_promise_19_a_redactor_comes_before_the_record_and_all_who_listen() -> None:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> Any:
            if isinstance(event, CallStarted):
                return attrs.evolve(event, input="[redacted]")
            return attrs.evolve(event, output="[redacted]") if isinstance(event, CallFinished) else None

    handled: list[Any] = []
    with quiet_bus(plugins=[Redactor()]) as bus:
        bus.on(object, lambda envelope: handled.append(envelope.event))
        bus.enable_recording(content=True)
        assert recorded(bus) == [attrs.evolve(STARTED, input="[redacted]"), attrs.evolve(FINISHED, output="[redacted]")]
    assert handled[1:-1] == [attrs.evolve(STARTED, input="[redacted]"), attrs.evolve(FINISHED, output="[redacted]")]


def test_promise_19_a_redactor_that_fails_withholds_the_attributes_too() -> None:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> Any:
            if isinstance(event, CallFailed):
                raise ValueError

    seen: list[Any] = []
    with quiet_bus(plugins=[Redactor()]) as bus:
        bus.on(CallFailed, lambda envelope: seen.append(envelope.event))
        with pytest.raises(crewbus.RedactionError), bus.call("gpt", attributes={"secret": 1}) as call:
            call.fail("secret")
    assert seen[0].attributes == {}


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (lambda call: call.fail("lost"), CallFailed),
        (lambda call: call.fail(ValueError("lost")), CallFailed),
        (lambda call: call.fail(KeyboardInterrupt()), CallCancelled),
    ],
)
def test_promise_19_a_call_that_fails_says_what_became_known(
    fail: Callable[[crewbus.Call], None], kind: type[CallFailed | CallCancelled]
) -> None:
    seen: list[Any] = []
    with quiet_bus() as bus:
        bus.on(kind, lambda envelope: seen.append(envelope.event))
        with bus.call("gpt", attributes={"a": 1}) as call:
            call.attributes["b"] = 2
            fail(call)
    assert [event.attributes for event in seen] == [{"a": 1, "b": 2}]


def test_promise_19_what_is_given_may_change_afterwards() -> None:
    attributes = {"a": 1}
    seen: list[Any] = []
    with quiet_bus() as bus:
        bus.on(object, lambda envelope: seen.append(envelope.event.attributes))
        call = bus.call("gpt", attributes=attributes)
        attributes["a"] = 2
        with call:
            call.attributes["a"] = 3
    assert seen == [{"a": 1}, {"a": 3}]
    assert attributes == {"a": 2}


def test_promise_03_a_call_that_has_ended_keeps_nothing_of_it() -> None:
    with quiet_bus() as bus, bus.call("gpt", attributes={"a": object()}, input=object()) as call:
        call.finish()
        assert (call.attributes, call.input) == ({}, None)


@pytest.mark.parametrize("options", [{"kind": 1}, {"kind": ""}, {"attributes": {1: 2}}, {"attributes": [("a", 1)]}])
def test_promise_09_arguments_of_a_call_are_checked(options: Any) -> None:
    with quiet_bus() as bus, pytest.raises(crewbus.InputError):
        bus.call("gpt", **options)


def test_a_repeated_call_may_describe_itself_otherwise() -> None:
    """A resumed run matches calls by their names, so what describes them may have changed."""

    def work(model: str, *, fails: bool) -> None:
        with bus.call("gpt", kind="model", attributes={"model": model}, input=model):
            bus.chunk("said")
        if fails:
            raise KeyError

    with quiet_bus() as bus:
        bus.enable_recording(content=True)
        with pytest.raises(KeyError), bus.run(id="r"):
            work("one", fails=True)
        with bus.resume("r"):
            work("two", fails=False)
        assert [type(one.event).__name__ for one in bus.record_of("r") if "Call" in type(one.event).__name__] == [
            "CallStarted", "CallFinished",
        ]  # fmt: skip
