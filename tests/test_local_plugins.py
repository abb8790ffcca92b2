"""Plugins without packaging: modules that the environment, the constructor or the command line names."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from cli_helpers import Cli
from helpers import TIMEOUT
from lifecycle_helpers import script
from plugin_helpers import logged

import crewbus
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins import loading as _loading

MODULE = """\
import crewbus

__version__ = "1.4"
heard = []

@crewbus.hookimpl
def crewbus_emit(envelope):
    heard.append(type(envelope.event).__name__)

class Counter:
    @crewbus.hookimpl
    def crewbus_run_start(self):
        heard.append("a run")

class Shelf:
    deep = Counter
"""
COMMAND = """\
import crewbus
from crewbus import MemoryStore

@crewbus.hookimpl
def crewbus_cli_commands(commands):
    commands.add("greet", greet, help="say hello", configure=add_arguments)

def add_arguments(parser):
    parser.add_argument("whom")

@crewbus.hookimpl
def crewbus_open_store(url):
    return MemoryStore() if url == "greeting:" else None

def greet(args, bus):
    print("hello", args.whom, bus is crewbus.default_bus())
    return 5
"""
AGENT = """\
import crewbus

def say(text="hi"):
    crewbus.chunk(text)
    print(sorted(name for name, plugin in crewbus.default_bus().plugins.list_name_plugin() if plugin))
    print(crewbus.default_bus() is crewbus.current_bus())

def again():
    crewbus.default_bus()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory with modules in it, from which Python imports; nothing of the environment, and no default bus."""
    for variable in ("CREWBUS_BLOCK", "CREWBUS_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(crewbus.bus.default._default, "bus", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    for name, text in {"mine.py": MODULE, "pkg/__init__.py": "", "pkg/mod.py": MODULE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "greeting.py").write_text(COMMAND)
    (tmp_path / "agent.py").write_text(AGENT)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def here(folder, monkeypatch):
    """The modules in it can be imported, as those beside a script can."""
    monkeypatch.syspath_prepend(folder)
    return folder


def install(folder: Path, name: str, code: str, version: str = "1.5") -> None:
    """Lay a distribution into ``folder``, whose plugin of that name is a module called ``name_module``."""
    info = folder / f"{name}_dist-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[crewbus]\n{name} = {name}_module\n")
    (folder / f"{name}_module.py").write_text(dedent(code))
    importlib.invalidate_caches()


def loaded(**options):
    """The names of the plugins that a bus loads besides its own."""
    with crewbus.Bus(**options) as bus:
        return [info.name for info in bus.plugins.infos() if info.status == "loaded" and info.name not in OTHERS]


OTHERS = {"memory_store", "run_scope", "checkpoint_recorder", "callback_isolation"}
"""The built-in plugins, and those that are installed where the tests run."""
OTHERS |= {entry.name for entry in importlib.metadata.entry_points(group="crewbus")}


def reasons(**options):
    with crewbus.Bus(**options) as bus:
        return {info.name: info.reason for info in bus.plugins.infos()}


# The environment


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("mine", ["mine"]),
        (" mine ,", ["mine"]),
        ("mine,mine", ["mine"]),
        ("mine,pkg.mod", ["mine", "pkg.mod"]),
        ("pkg.mod:Counter", ["pkg.mod:Counter"]),
        ("pkg.mod:Shelf.deep", ["pkg.mod:Shelf.deep"]),
        ("", []),
    ],
)
def test_a_module_from_the_environment_is_a_plugin_of_that_name(here, monkeypatch, value, names):
    monkeypatch.setenv("CREWBUS_PLUGINS", value)
    assert loaded() == names


def test_their_hookimpls_are_called(here, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine,pkg.mod:Counter")
    with crewbus.Bus() as bus, bus.run():
        pass
    assert sys.modules["mine"].heard == ["RunStarted", "RunFinished"]
    assert sys.modules["pkg.mod"].heard == ["a run"]


def test_a_bus_without_entry_points_loads_none(here, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine")
    assert loaded(entry_points=False) == []
    assert "mine" not in sys.modules


def test_they_are_blocked_by_the_name_in_the_environment(here, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine,pkg.mod:Counter")
    monkeypatch.setenv("CREWBUS_BLOCK", "pkg.mod:Counter")
    assert loaded() == ["mine"]
    assert loaded(blocked=["mine"]) == ["pkg.mod:Counter"]
    assert reasons()["pkg.mod:Counter"] == "blocked by CREWBUS_BLOCK"


def test_the_name_of_an_installed_plugin_means_that_plugin(here, monkeypatch):
    install(here, "acme", MODULE)
    monkeypatch.setenv("CREWBUS_PLUGINS", "acme")
    assert loaded() == ["acme"]


def test_a_module_that_makes_a_bus_while_it_is_imported_is_skipped(here, monkeypatch):
    """It would be registered before its hookimpls are there."""
    (here / "eager.py").write_text(f"import crewbus\nmade = crewbus.Bus()\n{MODULE}")
    monkeypatch.setenv("CREWBUS_PLUGINS", "eager")
    with pytest.warns(PluginWarning, match="'eager' was skipped: .*makes a bus while it is being imported"):
        made = importlib.import_module("eager").made
    with made:
        assert not made.plugins.has_plugin("eager")
    with crewbus.Bus() as bus:
        assert bus.plugins.hook.crewbus_emit.get_hookimpls()[-1].plugin is sys.modules["eager"]


@pytest.mark.parametrize("asks", ["", "@crewbus.hookimpl\ndef crewbus_configure(bus):\n    "], ids=["import", "serve"])
@pytest.mark.parametrize("how", ["crewbus.default_bus()", "crewbus.emit(crewbus.Chunk('x'))"])
def test_a_plugin_that_uses_the_default_bus_while_it_is_made_is_refused(here, monkeypatch, asks, how):
    (here / "eager.py").write_text(f"import crewbus\n{asks}{how}\n")
    monkeypatch.setenv("CREWBUS_PLUGINS", "eager,mine")
    before = set(crewbus.bus.bus.live_buses)
    with pytest.warns(PluginWarning, match="'eager' was skipped: .*the default bus is still being made") as warned:
        bus = crewbus.default_bus()
    with bus:
        assert len(warned) == 1
        assert crewbus.default_bus() is bus
        assert bus.plugins.has_plugin("mine")
        assert set(crewbus.bus.bus.live_buses) - before == {bus}, "no other bus was made"


def test_a_default_bus_that_could_not_be_made_is_made_at_the_next_call(monkeypatch):
    with crewbus.bus.default.made_with(requires=["nobody"]), pytest.raises(PluginError, match="'nobody' is required"):
        crewbus.default_bus()
    crewbus.default_bus().close()


FORKS_MEANWHILE = """
import os, sys, threading, types, warnings
import crewbus

warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks
begun, go = threading.Event(), threading.Event()
slow = sys.modules["slow"] = types.ModuleType("slow")

@crewbus.hookimpl
def crewbus_configure():
    begun.set()
    assert go.wait(60)

slow.crewbus_configure = crewbus_configure
os.environ["CREWBUS_PLUGINS"] = "slow"
thread = threading.Thread(target=crewbus.default_bus)
thread.start()
assert begun.wait(60)
child = os.fork()
if child == 0:
    del os.environ["CREWBUS_PLUGINS"]
    crewbus.default_bus().close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_child_that_is_forked_while_another_thread_makes_the_default_bus_makes_its_own():
    assert script(FORKS_MEANWHILE).stdout == "7\n"


def test_what_the_constructor_is_given_takes_their_place(here, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine")
    other = type("Mine", (), {})()
    with crewbus.Bus([("mine", other)]) as bus:
        assert bus.plugins.get_plugin("mine") is other
    assert "mine" not in sys.modules


FAULTS = [
    ("mien", "there is no module 'mien': did you mean mine?"),
    ("pkg.mood", "there is no module 'pkg.mood'"),
    ("pkg.mod:Nobody", "AttributeError"),
    ("my-module", "named by 'module' or 'module:attribute'"),
    ("mine:", "named by 'module' or 'module:attribute'"),
    (":mine", "named by 'module' or 'module:attribute'"),
    ("fails", "LookupError: no licence"),
    ("exits", "SystemExit: 3"),
    ("needs", "ModuleNotFoundError: No module named 'nobody_has_this'"),
    ("clumsy", "did you mean crewbus_emit?"),
    ("mine:heard", "hashable"),
    ("refuses", "could not be configured: LookupError: not here"),
]


@pytest.fixture
def faulty(here):
    (here / "fails.py").write_text("raise LookupError('no licence')")
    (here / "exits.py").write_text("raise SystemExit(3)")
    (here / "needs.py").write_text("import nobody_has_this")
    (here / "clumsy.py").write_text("import crewbus\n@crewbus.hookimpl\ndef crewbus_emitt(): pass\n")
    (here / "refuses.py").write_text(
        "import crewbus\n@crewbus.hookimpl\ndef crewbus_configure(): raise LookupError('not here')\n"
    )
    return here


@pytest.mark.parametrize(("name", "says"), FAULTS)
def test_a_faulty_one_is_skipped_by_name_or_refused_when_strict(faulty, monkeypatch, name, says):
    monkeypatch.setenv("CREWBUS_PLUGINS", f"{name},mine")
    with pytest.warns(PluginWarning, match="was skipped") as caught:
        assert loaded() == ["mine"]
    (warning,) = caught
    assert warning.filename == __file__
    assert f"plugin {name!r} was skipped: " in str(warning.message)
    assert says in str(warning.message)
    with pytest.warns(PluginWarning):
        assert says in reasons()[name]
    with pytest.raises(PluginError, match=f"^plugin {name!r} failed to load: "):
        loaded(strict=True)


def test_the_reason_names_the_variable(faulty, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "fails")
    with pytest.warns(PluginWarning, match="'fails' was skipped: CREWBUS_PLUGINS names it: LookupError: no licence"):
        loaded()


def test_a_slow_import_is_reported_by_name(here, monkeypatch):
    monkeypatch.setattr(_loading, "SLOW_IMPORT", -1.0)
    with pytest.warns(PluginWarning) as caught:
        assert loaded(plugins=["mine"], entry_points=False) == ["mine"]
    assert any(re.match("plugin 'mine' took .* s to import", str(warning.message)) for warning in caught)


# The constructor


def test_the_constructor_takes_names(here):
    install(here, "acme", MODULE)
    assert loaded(plugins=["mine", "pkg.mod:Counter"], entry_points=False) == ["mine", "pkg.mod:Counter"]
    assert loaded(plugins="mine", entry_points=False) == ["mine"]
    assert loaded(plugins=["acme"], entry_points=False) == ["acme"]
    assert loaded(plugins=["mine", "mine"], entry_points=False) == ["mine"]
    assert loaded(plugins=["run_scope"], entry_points=False) == []


def test_a_name_is_not_blocked_by_the_environment(here, monkeypatch):
    install(here, "acme", MODULE)
    monkeypatch.setenv("CREWBUS_BLOCK", "acme,mine,run_scope")
    assert loaded(plugins=["acme", "mine", "run_scope"]) == ["acme", "mine"]
    with crewbus.Bus(["run_scope"]) as bus:
        assert bus.plugins.has_plugin("run_scope")
    assert loaded(plugins=["mine"], blocked=["mine"], entry_points=False) == []


def test_an_installed_one_that_is_named_keeps_its_distribution(here):
    install(here, "acme", MODULE)
    with crewbus.Bus(["acme"], entry_points=False) as bus:
        (info,) = [info for info in bus.plugins.infos() if info.name == "acme"]
    assert (info.distribution, info.version) == ("acme-dist", "1.5")


def test_a_named_plugin_that_fails_to_load_is_skipped_or_refused_when_strict(faulty):
    with pytest.warns(PluginWarning, match="plugin 'fails' was skipped: LookupError: no licence"):
        assert loaded(plugins=["fails", "mine"], entry_points=False) == ["mine"]
    with pytest.raises(PluginError, match="plugin 'fails' failed to load: LookupError: no licence"):
        loaded(plugins=["fails"], entry_points=False, strict=True)


def test_a_misspelt_name_gets_a_suggestion(here):
    install(here, "acme", MODULE)
    with pytest.raises(PluginError, match=r"no installed plugin has this name.*did you mean acme\?"):
        loaded(plugins=["akme"], strict=True)


def test_a_module_s_version_is_shown(here):
    with crewbus.Bus(["mine", "pkg.mod:Counter"], entry_points=False) as bus:
        infos = {info.name: info for info in bus.plugins.infos()}
    assert (infos["mine"].distribution, infos["mine"].version) == (None, "1.4")
    assert infos["pkg.mod:Counter"].version == "1.4"


# The command


@pytest.fixture
def cli(folder, capsys, monkeypatch):
    """The command on the default bus, in a directory from which Python doesn't import."""
    return Cli(folder, capsys)


def shown(cli: Cli, *argv: str) -> dict[str, dict[str, str]]:
    assert cli("plugins", "--json", *argv) == 0, cli.err
    return {info["name"]: info for info in json.loads(cli.out)}


@pytest.mark.parametrize(
    "argv",
    [
        ["-p", "mine", "plugins"],
        ["plugins", "-p", "mine"],
        ["-pmine", "plugins", "--json"],
        ["plugins", "--json", "-p=mine"],
        ["-p", "mine", "plugins", "-p", "mine"],
    ],
)
def test_p_loads_a_module_of_the_current_directory_before_and_after_the_command(cli, argv):
    assert cli(*argv) == 0
    assert "mine" in cli.out
    assert cli.err == ""


@pytest.mark.parametrize("command", ["run agent:say", "runs", "plugins", "hooks", "show latest"])
def test_every_command_takes_them(cli, command):
    cli("-p", "mine", "--require", "mine>=1", *command.split(), "-p", "no:pkg", "--require", "mine<2")
    assert "mine" in sys.modules
    assert "usage:" not in cli.err


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["greet", "--help", "-p", "greeting"]])
def test_every_help_shows_them(cli, argv):
    assert cli(*argv) == 0
    assert "-p NAME" in cli.out
    assert "--require PLUGIN" in cli.out


def test_the_target_gets_the_same_default_bus(cli):
    assert cli("run", "agent:say", "-p", "mine") == 0
    names, same, _ = cli.out.split("\n", 2)
    assert "'mine'" in names
    assert same == "True"
    assert "Chunk" in sys.modules["mine"].heard


def test_the_next_default_bus_is_made_without_the_plugins_of_the_command(cli):
    assert cli("run", "agent:say", "-p", "mine") == 0
    with crewbus.default_bus() as bus:
        assert not bus.plugins.has_plugin("mine")


def test_p_is_an_error_if_the_default_bus_exists_already(cli):
    with crewbus.default_bus():
        assert cli("plugins", "-p", "mine") == 2
        assert "the default bus exists already" in cli.err
        assert not crewbus.default_bus().plugins.has_plugin("mine")


def test_a_plugin_that_is_given_brings_commands_and_stores(cli):
    assert cli("-p", "greeting", "greet", "world") == 5
    assert cli.out == "hello world True\n"
    assert cli("greet", "-p", "greeting", "world") == 5
    assert cli("run", "agent:say", "--store", "greeting:", "-p", "greeting") == 0
    assert cli("run", "agent:say", "--store", "greeting:") == 2


def test_its_command_is_in_the_help(cli):
    assert cli("-p", "greeting", "--help") == 0
    assert "say hello" in cli.out


def test_the_environment_s_are_found_in_the_current_directory_too(cli, monkeypatch):
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine")
    assert shown(cli)["mine"]["status"] == "loaded"


def test_without_any_the_current_directory_is_not_imported_from(cli, folder):
    assert cli("plugins") == 0
    assert os.fspath(folder) not in sys.path


def test_p_no_leaves_out_installed_local_and_built_in_ones(cli, here, monkeypatch):
    install(here, "acme", MODULE)
    monkeypatch.setenv("CREWBUS_PLUGINS", "mine")
    monkeypatch.setenv("CREWBUS_BLOCK", "memory_store")
    infos = shown(cli, "-p", "no:acme", "-p", "no:mine", "-p", "no:run_scope", "-p", "no:nobody")
    for name in ("acme", "mine", "run_scope", "nobody"):
        assert (infos[name]["status"], infos[name]["reason"]) == ("blocked", f"blocked by -p no:{name}")
    assert infos["acme"]["distribution"] == "acme-dist"
    assert infos["memory_store"]["reason"] == "blocked by CREWBUS_BLOCK", "they come on top of it"
    assert "acme_module" not in sys.modules
    assert "mine" not in sys.modules


def test_the_last_of_two_contradicting_options_counts(cli):
    assert shown(cli, "-p", "no:mine", "-p", "mine")["mine"]["status"] == "loaded"
    assert shown(cli, "-p", "mine", "-p", "no:mine")["mine"]["status"] == "blocked"


def test_p_loads_an_installed_one_that_the_environment_blocks(cli, here, monkeypatch):
    install(here, "acme", MODULE)
    install(here, "other", MODULE)
    monkeypatch.setenv("CREWBUS_BLOCK", "acme,other,memory_store")
    infos = shown(cli, "-p", "acme", "-p", "memory_store")
    assert (infos["acme"]["status"], infos["acme"]["distribution"]) == ("loaded", "acme-dist")
    assert infos["other"]["reason"] == "blocked by CREWBUS_BLOCK"
    assert infos["memory_store"]["status"] == "loaded"


@pytest.mark.parametrize(("name", "says"), FAULTS)
def test_a_faulty_one_ends_the_command(cli, faulty, name, says):
    assert cli("-p", name, "runs") == 2
    assert f"crewbus: error: plugin {name!r} is required, and is broken: " in cli.err
    assert says in cli.err
    assert cli.out == ""


@pytest.mark.parametrize("argv", [["-p"], ["-p", "", "runs"], ["runs", "-p", "no:"], ["runs", "-p", "a b"]])
def test_wrong_usage(cli, argv):
    assert cli(*argv) == 2
    assert cli.err.startswith("usage: crewbus [-h]")


def test_a_plugin_s_option_of_such_a_name_is_pointed_out_since_it_is_never_given(cli, folder):
    (folder / "port.py").write_text(COMMAND.replace('"whom"', '"-p", "--port", dest="whom", help="the port"'))
    assert cli("-p", "port", "greet", "--port", "80") == 5
    assert "'crewbus greet' has an option -p or --require of its own, which it never receives" in cli.err
    assert cli("-p", "port", "greet", "--help") == 0
    assert "the port" in cli.out
    assert cli("-p", "greeting", "greet", "world") == 5
    assert cli.err == ""


def test_a_command_that_cannot_be_configured_is_not_added(cli, folder):
    (folder / "fails.py").write_text(COMMAND.replace('"whom")', '"whom")\n    1 / 0'))
    with logged() as messages:
        assert cli("-p", "fails", "greet", "world") == 2
    assert "invalid choice: 'greet'" in cli.err
    assert "ZeroDivisionError" in messages[0]
    assert "plugin fails " in messages[0]


def test_in_a_process_of_its_own(folder):
    """As an application uses it: nothing installed but crewbus, a module beside the agent."""
    argv = [sys.executable, "-P", "-m", "crewbus", "run", "agent:say", "-p", "mine", "--require", "mine~=1.0"]
    environment = {**os.environ, "CREWBUS_RECORD": "off"}
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'mine'" in done.stdout
    assert "True" in done.stdout
