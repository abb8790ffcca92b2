"""Each hook is documented, called, and tested; what it says of its arguments is what is passed."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import cattrs
import pytest
from helpers import TIMEOUT, Noted, quiet_bus
from plugin_helpers import logged

import crewbus
import crewbus.cli
import crewbus.scopes
from crewbus import hookspecs
from crewbus.dispatch.hook_table import HOT
from crewbus.plugins.isolation import CONTAINED

PACKAGE = Path(crewbus.__file__).parent
TESTS = Path(__file__).parent
HOOKS = {name: function for name, function in vars(hookspecs).items() if hasattr(function, "crewbus_spec")}
ARGUMENTS = {name: tuple(inspect.signature(function).parameters) for name, function in HOOKS.items()}


def mentions(tree: ast.AST) -> set[str]:
    """The hooks that code names: as an attribute, or as a string."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in HOOKS}


def called() -> set[str]:
    calls: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "hookspecs.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    calls |= mentions(node)
    return calls & set(HOOKS)


def test_there_are_the_hooks_of_the_design():
    assert {"crewbus_emit", "crewbus_record", "crewbus_stream_chunk", "crewbus_callback_register"} <= set(HOOKS)
    assert all(name.startswith("crewbus_") for name in HOOKS)
    with quiet_bus() as bus:
        assert {name for name in vars(bus.plugins.hook) if not name.startswith("_")} == set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_the_docstring_says_something(name):
    doc = inspect.getdoc(HOOKS[name])
    first = doc.partition("\n")[0]
    assert first.endswith("."), first
    assert len(doc.split()) >= 12, doc
    assert name not in doc


@pytest.mark.parametrize("name", [name for name in HOOKS if HOOKS[name].crewbus_spec["firstresult"]])
def test_a_firstresult_hook_says_what_none_means(name):
    assert "None" in inspect.getdoc(HOOKS[name])


@pytest.mark.parametrize("name", sorted(set(HOOKS) - CONTAINED))
def test_a_hook_whose_exceptions_are_not_contained_says_what_becomes_of_them(name):
    """Of the others the module says it."""
    assert re.search(r"exception|raises", inspect.getdoc(HOOKS[name]).lower())


def test_what_is_guarded_is_a_hook():
    assert set(HOOKS) >= CONTAINED
    assert set(HOOKS) >= set(HOT)


@pytest.mark.parametrize("name", HOOKS)
def test_its_signature_is_annotated_and_without_defaults(name):
    signature = inspect.signature(HOOKS[name])
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.default is inspect.Parameter.empty


def test_each_hook_is_hot_or_called():
    assert set(HOOKS) - set(HOT) - called() == set()


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_has_a_test_that_implements_it(name):
    """In another file than this one, or by hand in this."""
    pattern = re.compile(rf"def {name}\(|\b{name}=")
    assert any(pattern.search(path.read_text("utf-8")) for path in TESTS.glob("*.py"))


# A real call of each hook


class Everything:
    """Implements every hook, with all its arguments, and keeps what it is passed."""

    def __init__(self) -> None:
        self.got: dict[str, list[dict[str, Any]]] = {}


def implement(name: str) -> Any:
    names = ", ".join(ARGUMENTS[name])
    source = f"def {name}(self, {names}):\n    self.got.setdefault({name!r}, []).append(dict({pairs(name)}))"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return crewbus.hookimpl(namespace[name])


def pairs(name: str) -> str:
    return ", ".join(f"{argument}={argument}" for argument in ARGUMENTS[name])


for hook in HOOKS:
    setattr(Everything, hook, implement(hook))


def ignore(envelope: crewbus.Envelope) -> None:
    """A callback."""


def fails(envelope: crewbus.Envelope) -> None:
    raise ValueError("a handler")


def test_each_hook_is_called_with_what_it_asks_for():
    everything = Everything()
    with logged(), quiet_bus(plugins=[("everything", everything)]) as bus:
        bus.on(Noted, fails)
        bus.enable_recording("memory:?max_bytes=100000")
        with bus.run() as run:
            bus.emit(Noted())
            bus.chunk("x")
            with bus.call("gpt", callbacks=[ignore]):
                pass
        bus.flush(TIMEOUT)
    bus.plugins.hook.crewbus_cli_commands(commands=crewbus.cli.CommandLine())
    kinds = {
        "bus": crewbus.Bus,
        "run": crewbus.Run,
        "envelope": crewbus.Envelope,
        "event": object,
        "scope": crewbus.scopes.Scope,
        "callback": type(ignore),
        "url": str,
        "converter": cattrs.Converter,
        "commands": crewbus.cli.CommandLine,
        "failure": crewbus.Failure,
        "timeout": (float, type(None)),
    }
    assert set(everything.got) == set(HOOKS) - {"crewbus_after_fork"}  # which a process of its own shows
    for calls in everything.got.values():
        for values in calls:
            for argument, value in values.items():
                assert isinstance(value, kinds[argument])
                assert argument != "bus" or value is bus
                assert argument != "run" or value is run
    assert len(everything.got["crewbus_close"]) == 1
    assert len(everything.got["crewbus_configure"]) == 1
    assert [type(v["envelope"].event).__name__ for v in everything.got["crewbus_record"]] == [
        "RunStarted",
        "Noted",
        "Chunk",
        "CallStarted",
        "CallFinished",
        "RunFinished",
    ]


def test_a_plugin_adds_a_command(capsys):
    """With arguments of its own, the bus, and an exit code."""

    class Commands:
        @crewbus.hookimpl
        def crewbus_cli_commands(self, commands):
            commands.add("greet", self.greet, help="print a greeting", configure=self.add_arguments)

        @staticmethod
        def add_arguments(parser):
            parser.add_argument("whom")

        @staticmethod
        def greet(args, bus):
            print(f"hello {args.whom} {bus.plugins.has_plugin('commands')}")  # noqa: T201
            return 7

    crewbus.default_bus().plugins.register(Commands, "commands")
    assert crewbus.cli.main(["greet", "world"]) == 7
    assert capsys.readouterr().out == "hello world True\n"
