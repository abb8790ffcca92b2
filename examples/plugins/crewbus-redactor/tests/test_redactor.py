"""Secrets reach no stream, handler, observer, callback or record; and the emitter's object is not changed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import attrs
import pytest

import crewbus
from crewbus_redactor import HIDDEN, Redactor

SECRETS = {
    "OpenAI": "sk-proj-abcDEF123456_7890-xyz",
    "GitHub": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "Slack": "xoxb-123456789012-abcdefghijkl",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "BEARER": "BEARER abcDEF",
    "bearer": "Bearer abc.DEF-123_456~7+8/9==",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "URL": "bob:p@ss:w0rd",
}
only_it = pytest.mark.crewbus(plugins=["redactor"])


@crewbus.event(name="redactor.Asked")
class Asked:
    headers: Any


class Pair(NamedTuple):
    left: object
    right: object


@attrs.frozen
class Frozen:
    inner: object
    derived: str = attrs.field(init=False, default="kept")


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    inner: object


crewbus.register_event(Data, name="redactor.Data")


def in_url(secret):
    """The text that a secret stands in."""
    return f"postgres://{secret}@db.example/x" if secret == SECRETS["URL"] else f"it is {secret} there"


@only_it
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_reaches_no_sink(bus, captured_events, secret):
    text, called = in_url(secret), []
    own = Asked({"list": [text, ["nested", text]], "key": {text: 1}})

    @crewbus.step
    def look_up():
        return {"found": text}

    def agent():
        crewbus.emit(own)
        crewbus.chunk(text)
        with bus.call("model", callbacks=[called.append]) as call:
            call.finish(output=text)
        look_up()
        raise ValueError(text)

    handled = []
    bus.on(object, handled.append)
    bus.enable_recording(content=True)
    stream = bus.stream(agent)
    with pytest.raises(ValueError, match=r"it|postgres"), stream:
        streamed = list(stream)
    stored = list(bus.store.read(stream.run_id))
    ends = [seen[-1].event for seen in (streamed, captured_events, handled)]
    assert [type(event) for event in ends] == [crewbus.RunFailed] * 3
    assert stored[-1].name == "crewbus.RunFailed"
    for seen in (*streamed, *captured_events, *handled, *called):
        assert secret not in repr(seen.event)
    assert [event.name for event in stored if secret.encode() in event.data] == []
    hidden = {event.name for event in stored if HIDDEN.encode() in event.data}
    assert hidden >= {
        "redactor.Asked", "crewbus.Chunk", "crewbus.CallFinished", "crewbus.StepFinished", "crewbus.RunFailed"
    }  # fmt: skip
    assert own == Asked({"list": [text, ["nested", text]], "key": {text: 1}})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: [text],
        lambda text: (1, text),
        lambda text: {text},
        lambda text: frozenset({text}),
        lambda text: {"key": {"key": text}},
        lambda text: {text: 1},
        lambda text: MappingProxyType({"key": text}),
        lambda text: Pair(1, text),
        Frozen,
        Data,
    ],
)
def test_wherever_it_stands(wrap):
    """A copy is of the same kind, and nothing else in it changes."""
    before = Asked([wrap("the sk-0123456789abcdef0123 key"), other := ["other"]])
    after = Redactor().crewbus_redact(before)
    assert after.headers[0] == wrap(f"the {HIDDEN} key")
    assert after.headers[1] is other
    assert before == Asked([wrap("the sk-0123456789abcdef0123 key"), ["other"]])
    kind = type(before.headers[0])
    assert type(after.headers[0]) is (dict if kind is MappingProxyType else kind)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("before", ["=", r'{"text": "line\n', r'{"text": "k\u003d', "?q=key%3D", "https://x:"])
def test_in_text_that_is_escaped(secret, before):
    """In JSON, as the arguments of a tool are, and in the query of a URL."""
    text = in_url(secret).replace("it is ", before)
    assert secret not in Redactor().crewbus_redact(Asked(text)).headers


@dataclasses.dataclass
class Seeded:
    inner: object
    seed: dataclasses.InitVar[int]
    kind: ClassVar[str] = "seeded"


@attrs.define(eq=False)
class Unset:
    inner: object
    later: object = attrs.field(init=False)


def test_what_an_object_does_not_have():
    """A field that is not set, or is none of an instance's, is no reason to withhold the event; nor is a class."""
    rest = [Unset("no secret"), Seeded, Unset]
    event = Asked([Seeded("sk-0123456789abcdef0123", 1), *rest])
    assert Redactor().crewbus_redact(event) == Asked([Seeded(HIDDEN, 1), *rest])


class Odd(list):
    def __init__(self):
        super().__init__()


def nested(secret):
    """Deeper than Python recurses."""
    for _ in range(100_000):
        secret = [secret]
    return secret


def recursive(secret):
    found = [secret]
    found.append(found)
    return found


def odd(secret):
    found = Odd()
    found.append(secret)
    return found


@only_it
@pytest.mark.parametrize("wrap", [nested, recursive, odd])
def test_what_cannot_be_gone_through_or_copied_is_withheld(bus, captured_events, wrap):
    """The emitter gets an error and continues; no sink gets anything."""
    with bus.run():
        with pytest.raises(crewbus.RedactionError, match="'redactor' failed to redact Asked"):
            bus.emit(Asked(wrap("sk-0123456789abcdef0123")))
        bus.chunk("on")
    assert captured_events.names == ["crewbus.RunStarted", "crewbus.Chunk", "crewbus.RunFinished"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the task-management-in-practice-of-2024 guide",
        "sk-short",
        "https://example.org/a:b@c",
        "12:30 at foo@example.org",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    event = Asked(
        {"text": [text, (text, frozenset({text})), Pair(text, None)], "n": 1, "b": b"sk-0123456789abcdef0123"}
    )
    assert Redactor().crewbus_redact(event) is None


def test_patterns_of_ones_own(monkeypatch):
    monkeypatch.setenv("CREWBUS_REDACT", r"acme-\d+ (?i:internal)-\w+")
    event = Asked("acme-12, INTERNAL-x, other-12 and sk-0123456789abcdef0123")
    assert Redactor().crewbus_redact(event) == Asked(f"{HIDDEN}, {HIDDEN}, other-12 and {HIDDEN}")
    assert Redactor([r"other-\d+"]).crewbus_redact(Asked("acme-12, other-12")) == Asked(f"acme-12, {HIDDEN}")


def test_what_is_no_pattern_is_refused():
    with pytest.raises(crewbus.PluginError, match=r"'\(' is no regular expression"):
        Redactor(["("])


@only_it
def test_a_resumed_run_is_given_what_is_recorded(bus, recorded_run):
    """A step's result too is recorded without secrets: which is what it returns from then on."""

    @crewbus.step
    def log_in():
        return "Bearer abc123"

    first = recorded_run(log_in)
    assert first.result == "Bearer abc123"
    assert first.resume(log_in).result == HIDDEN


@only_it
def test_a_secret_in_two_chunks_is_not_found(bus):
    """A redactor is shown one event at a time: see the README for what a streaming application can do."""

    def agent():
        for piece in ("the key sk-0123456", "789abcdef0123 is "):
            crewbus.chunk(piece)

    with bus.stream(agent) as stream:
        assert stream.text() == "the key sk-0123456789abcdef0123 is "


@pytest.mark.parametrize(
    "hostile",
    [
        "'eyJ' * 400_000",
        "'_-eyJa' * 400_000",
        "r'\\\\neyJa.' * 400_000",
        "'%3DeyJa' * 400_000",
        "'://' + ':' * 800_000",
        "'Bearer' + ' ' * 800_000",
    ],
)
def test_no_text_holds_it_up(hostile):
    """Each pattern goes through a text once: what takes the square of its length would not be done before this ends."""
    code = (
        f"from crewbus import Chunk; from crewbus_redactor import Redactor; Redactor().crewbus_redact(Chunk({hostile}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
