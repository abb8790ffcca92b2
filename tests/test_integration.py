"""What `crewbus.integration` gives to plugins that follow a library: here a little one, made for each test."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import threading
import time
import weakref
from importlib.machinery import SourceFileLoader
from types import SimpleNamespace

import pytest
from helpers import TIMEOUT, in_thread, in_threads, quiet_bus
from plugin_helpers import logged

import crewbus
from crewbus.integration import Integration, IntegrationPlugin
from crewbus.integration._arrival import Arrival

ASK = "def ask(prompt):\n    return prompt.upper()\n\n\nasked_first = ask\n"


def waiting():
    """Who waits for a module."""
    return [finder for finder in sys.meta_path if isinstance(finder, Arrival)]


class Libraries:
    """Installs libraries, which nobody has imported."""

    def __init__(self, folder):
        self._folder = folder

    def add(self, version="1.4", code=ASK, module="parrot"):
        (self._folder / f"{module}.py").write_text(code)
        if version is not None:
            metadata = self._folder / f"{module}-{version}.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        importlib.invalidate_caches()


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield Libraries(tmp_path)
    for name in sys.modules.keys() - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    assert waiting() == []


@pytest.fixture
def parrot(libraries):
    """A little library, installed; nobody has imported it."""
    libraries.add()
    return lambda: importlib.import_module("parrot")


class Following:
    """An integration of the library, which tells what is asked; and how often it was changed and put back."""

    def __init__(self, **differently):
        self.changes: list[str] = []
        given = {"requires": "parrot>=1.2,<2", "by": "crewbus-parrot", "place": self.place}
        self.integration = Integration("Parrot", module="parrot", **{**given, **differently})

        class ParrotPlugin(IntegrationPlugin, of=self.integration):
            pass

        self.plugin = ParrotPlugin

    def place(self, undo):
        parrot = sys.modules["parrot"]
        stock = parrot.ask

        def ask(prompt):
            bus = self.integration.bus_in_scope()
            if bus is not None:
                with self.integration.contained("telling of a question"):
                    bus.emit(crewbus.Chunk(prompt))
            return stock(prompt)

        undo.callback(setattr, parrot, "ask", stock)
        undo.callback(self.changes.append, "put back")
        parrot.ask = ask
        self.changes.append("changed")


@pytest.fixture
def following():
    made = Following()
    yield made
    made.integration.uninstall()


@pytest.fixture
def integration(following):
    return following.integration


def told(bus):
    """What the bus is told from now on."""
    prompts: list[str] = []
    bus.on(crewbus.Chunk, lambda envelope: prompts.append(envelope.event.text))
    return prompts


def quiet(**options):
    """A bus that minds no chunks outside runs."""
    return quiet_bus(unscoped="ignore", **options)


def is_changed(parrot):
    return parrot.ask is not parrot.asked_first


# When the library is changed


def test_neither_the_bus_nor_an_integration_imports_the_library(parrot, following):
    with quiet(plugins=[following.plugin]) as bus, bus.run():
        following.integration.install(bus)
        bus.chunk("x")
    assert "parrot" not in sys.modules


def test_it_is_changed_once_it_is_imported(parrot, integration):
    with quiet() as bus:
        heard = told(bus)
        integration.install(bus)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello"]


def test_names_imported_from_it_are_the_changed_ones(parrot, integration):
    with quiet() as bus:
        heard = told(bus)
        integration.install(bus)
        from parrot import ask

        ask("hello")
        assert heard == ["hello"]


def test_it_is_changed_at_once_where_it_has_been_imported(parrot, integration):
    parrot()
    with quiet() as bus:
        heard = told(bus)
        integration.install(bus)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello"]


def test_it_is_put_back_with_the_last_bus(parrot, following):
    with quiet() as one, quiet() as other:
        following.integration.install(one)
        following.integration.install(other)
        parrot()
        following.integration.uninstall(one)
        assert is_changed(parrot())
        following.integration.uninstall(other)
        assert not is_changed(parrot())
    assert following.changes == ["changed", "put back"]


def test_it_is_changed_anew_with_the_next_bus(parrot, following):
    for _ in range(2):
        with quiet() as bus:
            following.integration.install(bus)
            assert is_changed(parrot())
            following.integration.uninstall()
    assert following.changes == ["changed", "put back"] * 2


def test_uninstalled_before_it_is_imported_it_stays_as_it_is(parrot, integration):
    with quiet() as bus:
        integration.install(bus)
        assert len(waiting()) == 1
        integration.uninstall(bus)
        assert waiting() == []
        assert not is_changed(parrot())


def test_doing_it_again_does_nothing_more(parrot, following):
    integration = following.integration
    with quiet() as bus:
        integration.install(bus)
        integration.install(bus)
        heard = told(bus)
        parrot().ask("hello")
        integration.install(bus)
        parrot().ask("again")
        assert heard == ["hello", "again"]
        integration.uninstall(bus)
        integration.uninstall(bus)
        integration.uninstall()
    assert following.changes == ["changed", "put back"]


def test_a_module_in_a_package_is_awaited_too(libraries, tmp_path):
    package = tmp_path / "birds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parrot.py").write_text(ASK)
    libraries.add(module="bird_parrots", code="")
    changed = []
    integration = Integration(
        "Birds", module="birds.parrot", requires="bird_parrots", by="crewbus-birds", place=changed.append
    )
    with quiet() as bus:
        integration.install(bus)
        importlib.import_module("birds")
        assert changed == []
        importlib.import_module("birds.parrot")
        assert len(changed) == 1
        integration.uninstall()


def test_changes_are_taken_back_the_latest_first(parrot):
    order = []

    def place(undo):
        for number in range(3):
            undo.callback(order.append, number)

    integration = Following(place=place).integration
    parrot()
    with quiet() as bus:
        integration.install(bus)
        integration.uninstall()
    assert order == [2, 1, 0]


def test_two_integrations_may_follow_the_same_library(parrot):
    first, second = Following(), Following(by="crewbus-cockatoo")
    with quiet() as bus:
        heard = told(bus)
        first.integration.install(bus)
        second.integration.install(bus)
        assert isinstance(parrot().__loader__, SourceFileLoader)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello", "hello"]
        second.integration.uninstall()
        first.integration.uninstall()
    assert not is_changed(parrot())


# Threads


def test_many_threads_may_install_and_uninstall(parrot):
    parrot()

    def place(undo):
        time.sleep(0)  # lets others in, if they may
        following.place(undo)
        time.sleep(0)

    following = Following(place=place)

    def come_and_go(i):
        with quiet() as bus:
            for _ in range(20):
                following.integration.install(bus)
                assert is_changed(parrot())  # whatever the others do, while one bus is served
                following.integration.uninstall(bus)

    in_threads(8, come_and_go)
    assert not is_changed(parrot())
    assert following.changes == ["changed", "put back"] * (len(following.changes) // 2)


GATED = "import gate\ngate.begun.set()\nassert gate.go.wait(20)\n" + ASK


@pytest.fixture
def gate(monkeypatch):
    made = SimpleNamespace(begun=threading.Event(), go=threading.Event())
    monkeypatch.setitem(sys.modules, "gate", made)
    yield made
    made.go.set()


def test_an_install_waits_for_a_thread_that_is_just_importing_it_and_nobody_for_that_install(
    libraries, gate, integration, monkeypatch
):
    libraries.add(code=GATED)
    asked, stock = threading.Event(), importlib.import_module

    def import_module(name):
        asked.set()
        return stock(name)

    with quiet() as bus, quiet() as other:
        importing = in_thread(stock, "parrot")
        assert gate.begun.wait(TIMEOUT)
        monkeypatch.setattr(importlib, "import_module", import_module)
        installing = in_thread(integration.install, bus)
        assert asked.wait(TIMEOUT)
        in_thread(integration.uninstall, other).result(TIMEOUT)
        gate.go.set()
        installing.result(TIMEOUT)
        assert is_changed(importing.result(TIMEOUT))


def test_it_is_changed_where_a_thread_imports_it_between_our_look_and_our_wait(parrot, following, monkeypatch):
    stock = Arrival.wait

    def wait(arrival):
        in_thread(parrot).result(TIMEOUT)
        stock(arrival)

    monkeypatch.setattr(Arrival, "wait", wait)
    with quiet() as bus:
        following.integration.install(bus)
        assert is_changed(parrot())
        assert waiting() == []
    assert following.changes == ["changed"]


def test_it_is_uninstalled_while_it_is_being_imported(libraries, gate, following):
    libraries.add(code=GATED)
    with quiet() as bus:
        following.integration.install(bus)
        importing = in_thread(importlib.import_module, "parrot")
        assert gate.begun.wait(TIMEOUT)
        following.integration.uninstall()
        gate.go.set()
        assert not is_changed(importing.result(TIMEOUT))
    assert following.changes == []


# What is not supported, or not as it is known


@pytest.mark.parametrize("version", ["1.2", "1.4.7", "1.99", "1.5rc1"])
def test_versions_that_are_supported(libraries, integration, version):
    libraries.add(version)
    with quiet() as bus:
        integration.install(bus)
        assert integration.buses == [bus]


@pytest.mark.parametrize("version", ["1.1.9", "2.0", "2.0rc1", "unknown"])
def test_others_are_refused_saying_which_is_there_and_what_to_do(libraries, integration, version):
    libraries.add(version)
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        integration.install(bus)
    assert str(refused.value) == (
        f"crewbus-parrot supports parrot>=1.2,<2; found parrot {version}: pip install -U 'parrot>=1.2,<2'"
    )
    assert integration.buses == []


def test_where_none_is_installed(integration):
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        integration.install(bus)
    assert str(refused.value) == (
        "crewbus-parrot needs parrot>=1.2,<2; none is installed: pip install -U 'parrot>=1.2,<2'"
    )


def test_the_plugin_of_a_library_that_is_not_supported_is_skipped(libraries, following):
    libraries.add("2.1")
    with pytest.warns(crewbus.PluginWarning, match=r"'parrot' was skipped: .*found parrot 2\.1"):
        bus = crewbus.Bus(plugins=[("parrot", following.plugin)], entry_points=False)
    with bus:
        assert bus.plugins.get_plugin("parrot") is None
    with pytest.raises(crewbus.PluginError, match=r"found parrot 2\.1"):
        crewbus.Bus(plugins=[following.plugin], entry_points=False, strict=True)


@pytest.fixture
def puzzled():
    """An integration that finds the library to be another than it knows, when it has changed half of it."""

    def place(undo):
        parrot = sys.modules["parrot"]
        undo.callback(setattr, parrot, "ask", parrot.ask)
        parrot.ask = None
        raise LookupError("it can't sing")

    return Following(place=place).integration


NOT_KNOWN = (
    "Parrot is not as crewbus-parrot knows it: LookupError: it can't sing: "
    "pip install -U crewbus-parrot, and pip install -U 'parrot>=1.2,<2'"
)


def test_a_library_that_is_not_as_it_is_known_is_refused_and_put_back(parrot, puzzled):
    parrot()
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        puzzled.install(bus)
    assert str(refused.value) == NOT_KNOWN
    assert isinstance(refused.value.__cause__, LookupError)
    assert (puzzled.buses, is_changed(parrot())) == ([], False)


def test_whoever_imports_such_a_library_is_warned_and_has_it(parrot, puzzled):
    with quiet() as bus:
        puzzled.install(bus)
        with pytest.warns(crewbus.PluginWarning) as warned:
            import parrot as found
        assert (str(warned[0].message), warned[0].filename) == (NOT_KNOWN, __file__)
        assert found.ask("hello") == "HELLO"
        with pytest.raises(crewbus.PluginError, match="not as crewbus-parrot knows it"):
            puzzled.install(bus)


def test_a_requirement_that_says_nothing_is_an_error_of_whoever_wrote_it():
    with pytest.raises(crewbus.PluginError, match="'parrot >> 1'"):
        Following(requires="parrot >> 1")


# The plugin, and which buses are served


def test_the_plugin_serves_a_bus_until_it_is_closed(parrot, following):
    with quiet(plugins=[following.plugin]) as bus:
        heard = told(bus)
        parrot().ask("hello")
        assert heard == ["hello"]
    assert not is_changed(parrot())


def test_the_plugin_is_called_by_its_own_name(parrot, following):
    with quiet(plugins=[following.plugin]) as bus:
        assert type(bus.plugins.get_plugin(following.plugin.__qualname__)) is following.plugin


def test_many_buses_may_load_it(parrot, following):
    with quiet(plugins=[following.plugin]) as one:
        with quiet(plugins=[following.plugin]) as other:
            assert following.integration.buses == [one, other]
        assert is_changed(parrot())
        assert following.integration.buses == [one]
    assert following.changes == ["changed", "put back"]


def test_a_plugin_must_say_whose_it_is():
    with pytest.raises(TypeError, match="of"):
        type("Nobodys", (IntegrationPlugin,), {})


def test_without_a_bus_it_is_the_default_one(parrot, integration):
    try:
        integration.install()
        assert integration.buses == [crewbus.default_bus()]
    finally:
        integration.uninstall()
        crewbus.default_bus().close()


def test_a_bus_that_is_closed_or_gone_is_served_no_more(parrot, integration):
    with quiet() as bus:
        integration.install(bus)
        with quiet() as other:
            integration.install(other)
        assert integration.buses == [bus]
    assert (integration.buses, integration.bus_in_scope()) == ([], None)
    assert parrot().ask("hello") == "HELLO"


def test_a_bus_is_not_kept(parrot, integration):
    bus = crewbus.Bus(entry_points=False)
    integration.install(bus)
    gone = weakref.ref(bus)
    bus.close()
    del bus
    gc.collect()
    assert gone() is None


# Which bus it is


@pytest.fixture
def pair(parrot, integration):
    """Two buses, both served; the second was installed later."""
    with quiet() as one, quiet() as other:
        integration.install(one)
        integration.install(other)
        yield one, other


def test_outside_any_scope_it_is_that_of_the_latest_install(pair, integration):
    assert integration.bus_in_scope() is pair[1]


def test_an_install_goes_before_buses_that_loaded_the_plugin(parrot, following):
    with quiet(plugins=[following.plugin]) as first, quiet() as asked:
        assert following.integration.bus_in_scope() is first
        following.integration.install(asked)
        with quiet(plugins=[following.plugin]) as last:
            assert following.integration.buses == [asked, first, last]
            following.integration.install(last)
            assert following.integration.buses == [last, asked, first]
            following.integration.install(asked)
            assert following.integration.buses == [last, asked, first]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("scope", [lambda bus: bus.run(), lambda bus: bus.call("x"), lambda bus: bus.callbacks(print)])
def test_in_a_run_a_call_or_callbacks_it_is_theirs(pair, integration, scope, which):
    with scope(pair[which]):
        assert integration.bus_in_scope() is pair[which]
    assert integration.bus_in_scope() is pair[1]


def test_callbacks_go_before_the_run_and_the_call_before_both(pair, integration):
    one, other = pair
    with one.run(), other.callbacks(print):
        assert integration.bus_in_scope() is other
        with one.callbacks(print):
            assert integration.bus_in_scope() is one
            with other.call("x"):
                assert integration.bus_in_scope() is other


def test_in_a_run_of_a_bus_that_is_not_served_it_is_the_first(pair, integration):
    with quiet() as not_served, not_served.run(), not_served.call("x"), not_served.callbacks(print):
        assert integration.bus_in_scope() is pair[1]


# Faults of the integration's own


class Refuser:
    """A plugin that raises an error for each event: nothing of it is emitted."""

    def __init__(self, error):
        self.error = error

    @crewbus.hookimpl
    def crewbus_redact(self, event):
        raise self.error


def test_a_fault_in_telling_is_logged_and_the_librarys_work_goes_on(parrot, integration):
    with quiet(plugins=[Refuser(ValueError("no"))]) as bus:
        integration.install(bus)
        with logged() as messages:
            assert parrot().ask("hello") == "HELLO"
        assert messages == ["crewbus-parrot: telling of a question failed; Parrot goes on"]


@pytest.mark.parametrize(
    "error",
    [
        crewbus.RecordingError("the disk is full"),
        crewbus.FencedError("taken over"),
        crewbus.ReplayMismatch("another step"),
        crewbus.Cancelled("enough"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_must_not_be_hidden_is_not_contained(integration, error):
    with pytest.raises(type(error)) as raised, integration.contained("telling"):
        raise error
    assert raised.value is error


# The arrival of a module


@pytest.fixture
def arrivals(libraries):
    """Begins to wait for a module that is made of the code given; each is stopped in the end."""
    made = []

    def begin(code, tell):
        libraries.add(version=None, code=code, module="arrives")
        made.append(Arrival("arrives", tell))
        made[-1].wait()
        return made[-1]

    yield begin
    for arrival in made:
        arrival.stop()


def test_it_tells_once_the_module_is_whole(arrivals):
    seen = []
    arrival = arrivals("value = 1", lambda: seen.append(sys.modules["arrives"].value))
    module = importlib.import_module("arrives")
    assert (module.value, seen) == (1, [1])
    assert arrival not in waiting()


def test_the_module_has_its_own_loader(arrivals):
    arrivals("", lambda: None)
    module = importlib.import_module("arrives")
    assert isinstance(module.__loader__, SourceFileLoader)
    assert module.__spec__.loader is module.__loader__


def test_meanwhile_its_loader_does_what_it_can(arrivals):
    arrivals("value = 1", lambda: None)
    loader = importlib.util.find_spec("arrives").loader
    assert loader.get_source("arrives") == "value = 1"
    assert pkgutil.get_data("arrives", "arrives.py") == b"value = 1"
    assert not hasattr(loader, "no_such_thing")


def test_finders_that_find_no_specs_are_passed_over(arrivals, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [object(), *sys.meta_path])
    seen = []
    arrivals("value = 1", lambda: seen.append(True))
    assert (importlib.import_module("arrives").value, seen) == (1, [True])


def test_an_import_that_fails_is_awaited_anew(arrivals):
    seen = []
    arrival = arrivals("raise OSError('at first')", lambda: seen.append(True))
    with pytest.raises(OSError, match="at first"):
        importlib.import_module("arrives")
    assert (seen, waiting()) == ([], [arrival])
    arrival.stop()
    arrival.stop()
    assert waiting() == []


def test_many_wait_for_the_same_module_and_are_told_in_order(arrivals):
    told = []
    for number in range(3):
        arrivals("", lambda number=number: told.append(number))
    module = importlib.import_module("arrives")
    assert (told, waiting()) == ([0, 1, 2], [])
    assert isinstance(module.__spec__.loader, SourceFileLoader)


def test_an_import_in_another_thread_misses_no_finder_when_it_stops(arrivals):
    arrival = arrivals("", lambda: None)
    finders = iter(sys.meta_path)  # as that import goes through them
    assert next(finders) is arrival
    expected = [finder for finder in sys.meta_path if finder is not arrival]
    arrival.stop()
    assert list(finders) == expected
    assert arrival.find_spec("arrives", None) is None, "the others are asked by who goes through them"


def test_other_modules_and_missing_ones_are_none_of_its_business():
    arrival = Arrival("no_such_module_anywhere", lambda: pytest.fail("told"))
    arrival.wait()
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_anywhere")
        assert arrival.find_spec("json", None) is None
    finally:
        arrival.stop()


# What it costs who has none


def test_importing_crewbus_or_making_a_bus_loads_none_of_it():
    code = (
        "import crewbus, sys\n"
        "with crewbus.Bus(entry_points=False) as bus, bus.run():\n"
        "    bus.emit(crewbus.Chunk('x'))\n"
        "assert not [name for name in sys.modules if name.startswith('crewbus.integration')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
