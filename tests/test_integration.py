"""`crewbus.integration`: plugins that integrate a library, here a small one that each test creates."""

from __future__ import annotations

import gc
import importlib
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
from crewbus.integration.import_hook import ImportHook

ASK = "def ask(prompt):\n    return prompt.upper()\n\n\nasked_first = ask\n"


class Libraries:
    """Installs libraries without importing them."""

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


@pytest.fixture
def parrot(libraries):
    """A small library, installed but not imported; calling the fixture imports it."""
    libraries.add()
    return lambda: importlib.import_module("parrot")


class ParrotIntegration:
    """An integration that emits each question, and lists when the library was patched and restored."""

    def __init__(self, patch=None, **options):
        self.changes: list[str] = []
        defaults = {"requires": "parrot>=1.2,<2", "by": "crewbus-parrot"}
        self.integration = Integration("Parrot", module="parrot", **{**defaults, **options})
        self.integration.when_imported(patch or self.patch)

        class ParrotPlugin(IntegrationPlugin, of=self.integration):
            pass

        self.plugin = ParrotPlugin

    def patch(self, undo):
        parrot = sys.modules["parrot"]
        original = parrot.ask

        def ask(prompt):
            bus = self.integration.bus_in_scope()
            if bus is not None:
                with self.integration.contained("reporting a question"):
                    bus.emit(crewbus.Chunk(prompt))
            return original(prompt)

        undo.callback(setattr, parrot, "ask", original)
        undo.callback(self.changes.append, "restored")
        parrot.ask = ask
        self.changes.append("patched")


@pytest.fixture
def parrots():
    integrated = ParrotIntegration()
    yield integrated
    integrated.integration.uninstall()


@pytest.fixture
def integration(parrots):
    return parrots.integration


def questions(bus):
    """The questions that the bus receives from now on."""
    prompts: list[str] = []
    bus.on(crewbus.Chunk, lambda envelope: prompts.append(envelope.event.text))
    return prompts


def quiet(**options):
    """A bus that accepts chunks outside runs."""
    return quiet_bus(unscoped="ignore", **options)


def is_patched(parrot):
    return parrot.ask is not parrot.asked_first


# When the library is patched


def test_neither_the_bus_nor_an_integration_imports_the_library(parrot, parrots):
    with quiet(plugins=[parrots.plugin]) as bus, bus.run():
        parrots.integration.install(bus)
        bus.chunk("x")
    assert "parrot" not in sys.modules


def test_the_library_is_patched_when_it_is_imported(parrot, integration):
    with quiet() as bus:
        heard = questions(bus)
        integration.install(bus)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello"]


def test_names_imported_from_the_library_are_the_patched_ones(parrot, integration):
    with quiet() as bus:
        heard = questions(bus)
        integration.install(bus)
        from parrot import ask

        ask("hello")
        assert heard == ["hello"]


def test_an_imported_library_is_patched_at_once(parrot, integration):
    parrot()
    with quiet() as bus:
        heard = questions(bus)
        integration.install(bus)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello"]


def test_the_library_is_restored_after_the_last_bus(parrot, parrots):
    with quiet() as one, quiet() as other:
        parrots.integration.install(one)
        parrots.integration.install(other)
        parrot()
        parrots.integration.uninstall(one)
        assert is_patched(parrot())
        parrots.integration.uninstall(other)
        assert not is_patched(parrot())
    assert parrots.changes == ["patched", "restored"]


def test_the_library_is_patched_again_for_the_next_bus(parrot, parrots):
    for _ in range(2):
        with quiet() as bus:
            parrots.integration.install(bus)
            assert is_patched(parrot())
            parrots.integration.uninstall()
    assert parrots.changes == ["patched", "restored"] * 2


def test_uninstalling_before_the_import_leaves_the_library_unpatched(parrot, integration):
    with quiet() as bus:
        integration.install(bus)
        integration.uninstall(bus)
        assert not is_patched(parrot())


def test_installing_and_uninstalling_are_idempotent(parrot, parrots):
    integration = parrots.integration
    with quiet() as bus:
        integration.install(bus)
        integration.install(bus)
        heard = questions(bus)
        parrot().ask("hello")
        integration.install(bus)
        parrot().ask("again")
        assert heard == ["hello", "again"]
        integration.uninstall(bus)
        integration.uninstall(bus)
        integration.uninstall()
    assert parrots.changes == ["patched", "restored"]


def test_the_module_may_be_in_a_package(libraries, tmp_path):
    package = tmp_path / "birds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parrot.py").write_text(ASK)
    libraries.add(module="bird_parrots", code="")
    patched = []
    integration = Integration("Birds", module="birds.parrot", requires="bird_parrots", by="crewbus-birds")
    integration.when_imported(patched.append)
    with quiet() as bus:
        integration.install(bus)
        importlib.import_module("birds")
        assert patched == []
        importlib.import_module("birds.parrot")
        assert len(patched) == 1
        integration.uninstall()


def test_patches_are_reverted_in_reverse_order(parrot):
    order = []

    def patch(undo):
        for number in range(3):
            undo.callback(order.append, number)

    integration = ParrotIntegration(patch).integration
    parrot()
    with quiet() as bus:
        integration.install(bus)
        integration.uninstall()
    assert order == [2, 1, 0]


def test_two_integrations_may_patch_the_same_library(parrot):
    first, second = ParrotIntegration(), ParrotIntegration(by="crewbus-cockatoo")
    with quiet() as bus:
        heard = questions(bus)
        first.integration.install(bus)
        second.integration.install(bus)
        assert isinstance(parrot().__loader__, SourceFileLoader)
        assert parrot().ask("hello") == "HELLO"
        assert heard == ["hello", "hello"]
        second.integration.uninstall()
        first.integration.uninstall()
    assert not is_patched(parrot())


# Threads


def test_threads_may_install_and_uninstall_concurrently(parrot):
    parrot()

    def patch(undo):
        time.sleep(0)  # let other threads run
        parrots.patch(undo)
        time.sleep(0)

    parrots = ParrotIntegration(patch)

    def install_and_uninstall(i):
        with quiet() as bus:
            for _ in range(20):
                parrots.integration.install(bus)
                assert is_patched(parrot())  # while any bus is served
                parrots.integration.uninstall(bus)

    in_threads(8, install_and_uninstall)
    assert not is_patched(parrot())
    assert parrots.changes == ["patched", "restored"] * (len(parrots.changes) // 2)


GATED = "import gate\ngate.begun.set()\nassert gate.go.wait(60)\n" + ASK


@pytest.fixture
def gate(monkeypatch):
    made = SimpleNamespace(begun=threading.Event(), go=threading.Event())
    monkeypatch.setitem(sys.modules, "gate", made)
    yield made
    made.go.set()


def test_install_waits_for_an_import_in_another_thread_without_holding_its_lock(
    libraries, gate, integration, monkeypatch
):
    libraries.add(code=GATED)
    waiting, original = threading.Event(), importlib.import_module

    def import_module(name):
        waiting.set()
        return original(name)

    with quiet() as bus, quiet() as other:
        importing = in_thread(original, "parrot")
        assert gate.begun.wait(TIMEOUT)
        monkeypatch.setattr(importlib, "import_module", import_module)
        installing = in_thread(integration.install, bus)
        assert waiting.wait(TIMEOUT)
        in_thread(integration.uninstall, other).result(TIMEOUT)
        gate.go.set()
        installing.result(TIMEOUT)
        assert is_patched(importing.result(TIMEOUT))


def test_an_import_between_the_check_and_the_registration_is_not_missed(parrot, parrots, monkeypatch):
    original = ImportHook.register

    def register(hook):
        in_thread(parrot).result(TIMEOUT)
        original(hook)

    monkeypatch.setattr(ImportHook, "register", register)
    with quiet() as bus:
        parrots.integration.install(bus)
        assert is_patched(parrot())
    assert parrots.changes == ["patched"]


def test_an_import_that_has_begun_before_the_registration_is_awaited(libraries, gate, parrots, monkeypatch):
    libraries.add(code=GATED)
    original, importing = ImportHook.register, []

    def register(hook):
        importing.append(in_thread(importlib.import_module, "parrot"))
        assert gate.begun.wait(TIMEOUT)
        gate.go.set()
        original(hook)

    monkeypatch.setattr(ImportHook, "register", register)
    with quiet() as bus:
        parrots.integration.install(bus)
        assert is_patched(importing[0].result(TIMEOUT))


def test_a_library_is_patched_after_an_import_that_failed_at_first(libraries, parrots):
    libraries.add(code="raise OSError('at first')")
    with quiet() as bus:
        parrots.integration.install(bus)
        with pytest.raises(OSError, match="at first"):
            importlib.import_module("parrot")
        assert parrots.changes == []
        libraries.add(version=None)
        assert is_patched(importlib.import_module("parrot"))


def test_uninstalling_during_the_import_leaves_the_library_unpatched(libraries, gate, parrots):
    libraries.add(code=GATED)
    with quiet() as bus:
        parrots.integration.install(bus)
        importing = in_thread(importlib.import_module, "parrot")
        assert gate.begun.wait(TIMEOUT)
        parrots.integration.uninstall()
        gate.go.set()
        assert not is_patched(importing.result(TIMEOUT))
    assert parrots.changes == []


# Unsupported libraries


@pytest.mark.parametrize("version", ["1.2", "1.4.7", "1.99", "1.5rc1"])
def test_supported_versions_are_accepted(libraries, integration, version):
    libraries.add(version)
    with quiet() as bus:
        integration.install(bus)
        assert integration.buses == [bus]


@pytest.mark.parametrize("version", ["1.1.9", "2.0", "2.0rc1", "unknown"])
def test_other_versions_are_rejected_with_the_version_found_and_the_command_to_run(libraries, integration, version):
    libraries.add(version)
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        integration.install(bus)
    assert str(refused.value) == (
        f"crewbus-parrot supports parrot>=1.2,<2; found parrot {version}: pip install -U 'parrot>=1.2,<2'"
    )
    assert integration.buses == []


def test_a_missing_library_is_rejected(integration):
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        integration.install(bus)
    assert str(refused.value) == (
        "crewbus-parrot needs parrot>=1.2,<2, which is not installed: pip install -U 'parrot>=1.2,<2'"
    )


def test_the_plugin_of_an_unsupported_library_is_skipped(libraries, parrots):
    libraries.add("2.1")
    with pytest.warns(crewbus.PluginWarning, match=r"'parrot' was skipped: .*found parrot 2\.1"):
        bus = crewbus.Bus(plugins=[("parrot", parrots.plugin)], entry_points=False)
    with bus:
        assert bus.plugins.get_plugin("parrot") is None
    with pytest.raises(crewbus.PluginError, match=r"found parrot 2\.1"):
        crewbus.Bus(plugins=[parrots.plugin], entry_points=False, strict=True)


@pytest.fixture
def failing():
    """An integration that fails after it has patched half of the library."""

    def patch(undo):
        parrot = sys.modules["parrot"]
        undo.callback(setattr, parrot, "ask", parrot.ask)
        parrot.ask = None
        raise LookupError("it has no sing")

    return ParrotIntegration(patch).integration


CANNOT_PATCH = (
    "crewbus-parrot cannot patch this version of Parrot: LookupError: it has no sing: "
    "pip install -U crewbus-parrot, and pip install -U 'parrot>=1.2,<2'"
)


def test_a_library_that_cannot_be_patched_is_rejected_and_restored(parrot, failing):
    parrot()
    with quiet() as bus, pytest.raises(crewbus.PluginError) as refused:
        failing.install(bus)
    assert str(refused.value) == CANNOT_PATCH
    assert isinstance(refused.value.__cause__, LookupError)
    assert (failing.buses, is_patched(parrot())) == ([], False)


def test_importing_a_library_that_cannot_be_patched_is_an_error(parrot, failing):
    with quiet() as bus:
        failing.install(bus)
        for _ in range(2):  # the second import must not succeed without the patch
            with pytest.raises(crewbus.PluginError) as refused:
                parrot()
            assert str(refused.value) == CANNOT_PATCH
        assert "parrot" not in sys.modules
        failing.uninstall(bus)
        assert parrot().ask("hello") == "HELLO"
        with pytest.raises(crewbus.PluginError, match="cannot patch this version"):
            failing.install(bus)


def test_a_malformed_requirement_is_rejected():
    with pytest.raises(crewbus.PluginError, match="'parrot >> 1'"):
        ParrotIntegration(requires="parrot >> 1")


# The plugin, and the served buses


def test_the_plugin_serves_a_bus_until_it_is_closed(parrot, parrots):
    with quiet(plugins=[parrots.plugin]) as bus:
        heard = questions(bus)
        parrot().ask("hello")
        assert heard == ["hello"]
    assert not is_patched(parrot())


def test_the_plugin_is_named_after_its_class(parrot, parrots):
    with quiet(plugins=[parrots.plugin]) as bus:
        assert type(bus.plugins.get_plugin(parrots.plugin.__qualname__)) is parrots.plugin


def test_several_buses_may_load_the_plugin(parrot, parrots):
    with quiet(plugins=[parrots.plugin]) as one:
        with quiet(plugins=[parrots.plugin]) as other:
            assert parrots.integration.buses == [one, other]
        assert is_patched(parrot())
        assert parrots.integration.buses == [one]
    assert parrots.changes == ["patched", "restored"]


def test_a_plugin_class_must_name_its_integration():
    with pytest.raises(TypeError, match="of"):
        type("Nameless", (IntegrationPlugin,), {})


def test_install_serves_the_default_bus_by_default(parrot, integration):
    try:
        integration.install()
        assert integration.buses == [crewbus.default_bus()]
    finally:
        integration.uninstall()
        crewbus.default_bus().close()


def test_a_closed_bus_is_no_longer_served(parrot, integration):
    with quiet() as bus:
        integration.install(bus)
        with quiet() as other:
            integration.install(other)
        assert integration.buses == [bus]
    assert (integration.buses, integration.bus_in_scope()) == ([], None)
    assert parrot().ask("hello") == "HELLO"


def test_an_installed_bus_is_not_kept_alive(parrot, integration):
    bus = crewbus.Bus(entry_points=False)
    integration.install(bus)
    gone = weakref.ref(bus)
    bus.close()
    del bus
    gc.collect()
    assert gone() is None


# Which bus is in scope


@pytest.fixture
def pair(parrot, integration):
    """Two served buses; the second was installed later."""
    with quiet() as one, quiet() as other:
        integration.install(one)
        integration.install(other)
        yield one, other


def test_outside_any_scope_it_is_the_bus_installed_last(pair, integration):
    assert integration.bus_in_scope() is pair[1]


def test_an_installed_bus_precedes_those_that_loaded_the_plugin(parrot, parrots):
    with quiet(plugins=[parrots.plugin]) as first, quiet() as installed:
        assert parrots.integration.bus_in_scope() is first
        parrots.integration.install(installed)
        with quiet(plugins=[parrots.plugin]) as last:
            assert parrots.integration.buses == [installed, first, last]
            parrots.integration.install(last)
            assert parrots.integration.buses == [last, installed, first]
            parrots.integration.install(installed)
            assert parrots.integration.buses == [last, installed, first]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("scope", [lambda bus: bus.run(), lambda bus: bus.call("x"), lambda bus: bus.callbacks(print)])
def test_it_is_the_bus_of_the_run_call_or_callbacks_in_scope(pair, integration, scope, which):
    with scope(pair[which]):
        assert integration.bus_in_scope() is pair[which]
    assert integration.bus_in_scope() is pair[1]


def test_callbacks_precede_the_run_and_the_call_precedes_both(pair, integration):
    one, other = pair
    with one.run(), other.callbacks(print):
        assert integration.bus_in_scope() is other
        with one.callbacks(print):
            assert integration.bus_in_scope() is one
            with other.call("x"):
                assert integration.bus_in_scope() is other


def test_a_bus_that_is_not_served_is_passed_over(pair, integration):
    with quiet() as not_served, not_served.run(), not_served.call("x"), not_served.callbacks(print):
        assert integration.bus_in_scope() is pair[1]


# Errors of the integration itself


class Refuser:
    """A plugin that rejects every event with an error."""

    def __init__(self, error):
        self.error = error

    @crewbus.hookimpl
    def crewbus_redact(self, event):
        raise self.error


def test_a_contained_error_is_logged_and_the_library_continues(parrot, integration):
    with quiet(plugins=[Refuser(ValueError("no"))]) as bus:
        integration.install(bus)
        with logged() as messages:
            assert parrot().ask("hello") == "HELLO"
        assert messages == ["crewbus-parrot: reporting a question failed; Parrot continues"]


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
def test_errors_that_must_not_be_hidden_propagate(integration, error):
    with pytest.raises(type(error)) as raised, integration.contained("reporting"):
        raise error
    assert raised.value is error


# Without integrations


def test_crewbus_does_not_import_the_integration_package_or_wrapt():
    code = (
        "import crewbus, sys\n"
        "with crewbus.Bus(entry_points=False) as bus, bus.run():\n"
        "    bus.emit(crewbus.Chunk('x'))\n"
        "assert not [name for name in sys.modules if name.startswith(('crewbus.integration', 'wrapt'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_wrapt_the_error_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['wrapt'] = None\n"
        "try:\n"
        "    import crewbus.integration\n"
        "except ModuleNotFoundError as error:\n"
        "    assert 'crewbus[integration]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
