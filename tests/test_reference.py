"""The reference says what is there, all of it: names, hooks, commands, variables, JSON. Sphinx builds it elsewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

import crewbus
from crewbus import cli, hookspecs, testing
from crewbus.plugins.isolation import CONTAINED

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
MODULES = [
    "crewbus",
    "crewbus.stores",
    "crewbus.events",
    "crewbus.exceptions",
    "crewbus.integration",
    "crewbus.notebook",
    "crewbus.stores.journal",
    "crewbus.testing",
]
"""Those whose ``__all__`` is an interface."""
PLUGINS = {path.parent.name: path.parent for path in sorted(ROOT.glob("plugins/crewbus-*/crewbus_*/__init__.py"))}
"""The packages of our plugins. They are read, not imported: what they need may not be installed."""
INTERNAL = {
    "crewbus.events": {
        "ENDS", "FRAMES", "LANDMARKS", "MARKS", "SUSPENDED",  # documented as `crewbus.stores.LANDMARKS`, ...
        "Registry", "entity_types", "event_type_or_none", "exception_types", "find_type",
        "forget_event", "qualified", "type_of_value",
    },
    "crewbus.exceptions": {
        "DOCUMENTATION", "FAILED_STEPS", "failed_steps", "is_cancellation", "note_failed_step", "see_page", "text_of",
    },
    "crewbus.stores": {"StoreRefs", "store_refs"},
}  # fmt: skip
"""Names that public modules hold for crewbus's own packages; the reference leaves them out."""
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "crewbus_spec")}
SIGNATURES = {name: f"{name}({', '.join(inspect.signature(hook).parameters)})" for name, hook in HOOKS.items()}


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def table(text: str, heading: str = "") -> list[list[str]]:
    """The rows of the first table of a page, or of the first one below a heading."""
    below = text[text.index(heading) :]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows is not None
    return [re.split(r" *\| *", row.strip("| ")) for row in rows[0].splitlines()[2:]]


def fields(text: str, heading: str = "") -> list[str]:
    """What stands as code in the first column of a table."""
    return [first.strip("`") for first, *_ in table(text, heading)]


DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(folder: Path) -> dict[str, str | None]:
    """The docstrings of the classes and functions that the modules of a folder define."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.parse(path.read_text("utf-8")).body]
    return {node.name: ast.get_docstring(node) for node in nodes if isinstance(node, DEFINITIONS)}


def assigned(module: ast.Module) -> dict[str, ast.stmt | None]:
    """The names that a module assigns, each with the statement below: a string there documents it."""
    pairs = pairwise([*module.body, None])
    targets = [
        (target, below)
        for node, below in pairs
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {target.id: below for target, below in targets if isinstance(target, ast.Name)}


def source(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def home_of(module: str, name: str) -> str:
    """The module that assigns ``name``, which ``module`` may import."""
    for node in ast.walk(source(module)):  # a lazy face imports it for type checkers
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return home_of(node.module, name)
    return module


# Names


def documented() -> set[str]:
    """What the pages name, each with the module that it is named in."""
    found = set()
    for path in REFERENCE.glob("*.md"):
        module = ""
        for kind, name in re.findall(
            r"^\.\. (currentmodule|(?:py:|auto)\w+):: ([\w.]+)", path.read_text("utf-8"), re.MULTILINE
        ):
            if kind in ("currentmodule", "py:module"):
                module = name
            else:
                found.add(name if name.startswith("crewbus.") else f"{module}.{name}")
    return found


DOCUMENTED = documented()
NAMES = [
    (module, name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if name not in INTERNAL.get(module, ())
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_public_name_is_in_the_reference(module, name):
    assert {f"crewbus.{name}", f"{module}.{name}"} & DOCUMENTED


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_public_name_says_what_it_is(module, name):
    if name in ("__version__", "hookimpl", "hookspec"):  # a string, and pluggy's: the reference says it
        return
    value = getattr(importlib.import_module(module), name)
    if callable(value):
        said = inspect.cleandoc(value.__doc__ or "")
    else:
        below = assigned(source(home_of(module, name)))[name]
        assert isinstance(below, ast.Expr)
        said = ast.literal_eval(below.value)
    assert len(said.split()) >= 3
    assert not said.startswith(f"{name}(")  # what attrs and dataclasses say where nobody does


@pytest.mark.parametrize("package", PLUGINS)
def test_the_public_names_of_a_plugin_are_documented(package):
    tree = ast.parse((PLUGINS[package] / "__init__.py").read_text("utf-8"))
    names = next(node.value for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node))
    docstrings = definitions(PLUGINS[package])
    for name in ast.literal_eval(names):
        assert len((docstrings[name] or "").split()) >= 3, name
        assert f"{package}.{name}" in DOCUMENTED


def test_every_method_of_the_bus_is_in_the_reference():
    with crewbus.Bus(entry_points=False) as bus:
        members = {name for name in (*dir(crewbus.Bus), *vars(bus)) if not name.startswith("_")}
    assert members == {name.removeprefix("crewbus.Bus.") for name in DOCUMENTED if name.startswith("crewbus.Bus.")}


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_the_module_has(module):
    """Each name is there; each public one that is made there, and not imported, is named."""
    found, tree = importlib.import_module(module), source(module)
    made = {node.name for node in tree.body if isinstance(node, DEFINITIONS)} | assigned(tree).keys()
    variables = {name for name in made if type(vars(found).get(name)).__module__ == "typing"}
    public = {name for name in made - variables if not name.startswith("_")}
    assert len(found.__all__) == len(set(found.__all__))
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
    assert public - set(found.__all__) <= INTERNAL.get(module, set())


@pytest.mark.parametrize(("module", "homes"), [("crewbus.testing", testing._HOME)])
def test_a_facade_and_type_checkers_find_each_name_in_the_same_module(module, homes):
    (block,) = [node for node in source(module).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == {name: f"{module}.{home}" for name, home in homes.items()}
    assert seen.keys() == set(importlib.import_module(module).__all__) - {"__version__"}


def test_every_fixture_is_in_the_reference():
    tree = source("crewbus.testing.fixtures")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    fixtures = {node.name for node in functions if "pytest.fixture" in map(ast.unparse, node.decorator_list)}
    assert fixtures
    assert {f"crewbus.testing.{name}" for name in fixtures} <= DOCUMENTED


# An example that needs more than the core


def test_the_starlette_example_prints_what_stands_below_it(tmp_path):
    """Where Starlette is installed; all others are run by `test_docs.py`."""
    pytest.importorskip("starlette")
    guide = (ROOT / "docs" / "howto" / "stream-to-a-browser.md").read_text("utf-8")
    page = tmp_path / "starlette.md"
    page.write_text(guide[guide.index("```py\nimport asyncio") :].replace("```py\n", "```python\n"), "utf-8")
    example, *_ = testing.examples(page)
    assert example.output
    example.check()


# Hooks


def test_each_hook_has_a_row_with_its_signature_and_what_it_does():
    rows = {signature.strip("`"): rest for signature, *rest in table(page("hooks.md"))}
    assert list(rows) == list(SIGNATURES.values())
    for name, signature in SIGNATURES.items():
        _, firstresult, exception, _ = rows[signature]
        assert (firstresult == "yes") is HOOKS[name].crewbus_spec["firstresult"]
        assert (exception == "is contained") is (name in CONTAINED)


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented_in_full_once(name):
    assert re.findall(rf"^\.\. autofunction:: {name}$", page("hooks.md"), re.MULTILINE) == [f".. autofunction:: {name}"]


@pytest.mark.parametrize("name", HOOKS)
def test_the_guide_that_a_hooks_row_leads_to_implements_it(name):
    (link,) = [cells[-1] for cells in table(page("hooks.md")) if cells[0].strip("`") == SIGNATURES[name]]
    guide = REFERENCE / re.search(r"\((.*)\)", link)[1]
    assert re.search(rf"@crewbus\.hookimpl.*\n *def {name}\(", guide.read_text("utf-8"))


def test_the_built_in_plugins_implement_what_the_table_says():
    received = {name.strip("`"): re.findall(r"\w+", hooks) for name, hooks, _ in table(page("plugins.md"))}
    with crewbus.Bus(entry_points=False) as bus:
        assert {info.name: sorted(info.hooks) for info in bus.plugins.infos()} == {
            name: sorted(hooks) for name, hooks in received.items()
        }


def test_wherever_a_hook_is_named_with_arguments_they_are_its_own():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    received = {text for path in pages for text in re.findall(r"`(crewbus_\w+\([\w, ]+\))`", path.read_text("utf-8"))}
    assert received
    assert received <= set(SIGNATURES.values())


# The environment


def test_the_table_has_the_variables_that_are_read_and_no_other():
    paths = [path for folder in (ROOT / "crewbus", *PLUGINS.values()) for path in folder.rglob("*.py")]
    read = {name for path in paths for name in re.findall(r'"(CREWBUS_[A-Z_]+)"', path.read_text("utf-8"))}
    assert {*fields(page("environment.md"))} == read


# The command line


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The command and its commands, by name."""
    command_line = cli.CommandLine()
    cli.add_built_in_commands(command_line)
    return {"": command_line.parser, **command_line.commands}


def told_of(parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> str:
    """What the reference tells of a command."""
    path = ROOT / "docs" / "_ext" / "command_reference.py"
    spec = importlib.util.spec_from_file_location("command_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n".join(module.command_reference(parser, whole))


def test_each_command_has_a_section():
    sections = re.findall(r"^## crewbus (\S+)\n\n.*\n\.\. crewbus-command:: \1$", page("command-line.md"), re.MULTILINE)
    assert ["", *sections] == list(parsers())


@pytest.mark.parametrize("command", parsers())
def test_each_option_of_a_command_is_documented(command):
    whole, parser = parsers()[""], parsers()[command]
    received = told_of(parser, whole) + told_of(whole, whole)
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            options = [re.escape(option) for option in action.option_strings] or [action.metavar]
            assert re.search(rf"^\.\. option:: (.*, )?{options[-1]}\b", received, re.MULTILINE), action
            assert len(action.help.split()) >= 2, action


# JSON


class Kept(crewbus.MemoryStore):
    """Survives the buses that record to it, as a file would."""

    def close(self):
        """Stay as it is."""


def work(fails: bool) -> None:
    with crewbus.call("gpt"):
        crewbus.chunk("x")
    if fails:
        raise ValueError("so it was asked")


@pytest.fixture
def printed(monkeypatch, capsys, tmp_path):
    """Calls the command, each time on a bus of its own that records to the same store; returns what it prints."""
    store = Kept()

    def bus() -> crewbus.Bus:
        made = crewbus.Bus(entry_points=False)
        made.enable_recording(store)
        return made

    def call(*argv: str) -> str:
        cli.main(argv, bus=bus())
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    with bus() as first, first.run("work", id="r1"):
        work(fails=False)
    with bus() as second:
        second.export("r1", "r1.jsonl")
    return call


def test_events_have_the_fields_of_the_table(printed):
    for line in printed("tail", "r1", "--json").splitlines():
        assert list(json.loads(line)) == fields(page("json.md"), "## An event")


def test_an_export_begins_with_what_the_tables_say(printed):
    head = json.loads(printed("export", "r1").partition("\n")[0])
    assert {*head} == {*fields(page("json.md"), "## An export"), *fields(page("json.md"), "## A run")} - {"id"}


def test_runs_and_what_they_did_have_the_fields_of_the_tables(printed):
    (run,) = json.loads(printed("runs", "--json"))
    assert list(run) == fields(page("json.md"), "## A run")
    shown = json.loads(printed("show", "r1", "--json"))
    assert shown.keys() == {*run, "tree"}
    assert [list(node) for node in shown["tree"]] == [fields(page("json.md"), "## What a run did")] * 2


def test_what_was_run_has_the_fields_of_the_tables(printed):
    Path("work.py").write_text(inspect.getsource(work).replace("def work", "import crewbus\n\ndef work"))
    ran = json.loads(printed("run", "work.py:work", "--arg", "fails=true", "--json"))
    assert [*ran] == [*fields(page("json.md"), "## What was run"), "failures"]
    assert [list(failure) for failure in ran["failures"]] == [fields(page("json.md"), "Where there is more to say")]


@pytest.mark.parametrize("what", ["plugins", "hooks"])
def test_plugins_and_hooks_have_the_fields_of_the_tables(printed, what):
    listed = json.loads(printed(what, "--json"))
    assert listed
    for one in listed:
        assert list(one) == fields(page("json.md"), f"## {what.capitalize()}")
