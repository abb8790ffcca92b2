"""crewAI is changed from when somebody imports it; nobody has to, and we never do."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crewbus_crewai._arrival import Arrival

PACKAGE = Path(__file__).parents[1]
TIMEOUT = 60.0


def run(code):
    """Run a program in a process of its own; it asserts."""
    setup = f"import sys\nsys.path.insert(0, {str(PACKAGE)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_neither_importing_nor_installing_imports_crewai():
    run(
        """
        import crewbus, crewbus_crewai
        bus = crewbus.Bus(plugins=[("crewai", crewbus_crewai.CrewaiPlugin)], entry_points=False)
        crewbus_crewai.install(bus)
        with bus, bus.run():
            bus.chunk("x")
        assert not [name for name in sys.modules if name.partition(".")[0] in {"crewai", "openai", "pydantic"}]
        """
    )


def test_installed_before_crewai_is_imported():
    run(
        """
        import crewbus, crewbus_crewai
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_crewai.install(bus)
            (ours,) = (finder for finder in sys.meta_path if type(finder).__module__.startswith("crewbus_crewai"))
            from crewai.flow.flow import Flow, start
            assert ours not in sys.meta_path
            class Small(Flow):
                @start()
                def begin(self):
                    return crewbus.current_run().name
            assert Small().kickoff() == "Small"
            crewbus_crewai.uninstall()
            assert "crewbus" not in Flow.kickoff_async.__code__.co_filename
        """
    )


def test_uninstalled_before_crewai_is_imported():
    run(
        """
        import crewbus, crewbus_crewai
        with crewbus.Bus(entry_points=False) as bus:
            before = list(sys.meta_path)
            crewbus_crewai.install(bus)
            assert sys.meta_path != before
            crewbus_crewai.uninstall()
            assert sys.meta_path == before
        """
    )


def test_a_crewai_that_is_not_as_it_is_known_warns_and_is_left_alone(tmp_path):
    package = tmp_path / "crewai"
    package.mkdir()
    (package / "__init__.py").write_text("class Crew: pass\n")
    run(
        f"""
        import warnings, crewbus, crewbus_crewai
        sys.path.insert(0, {str(tmp_path)!r})
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_crewai.install(bus)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                import crewai
            assert [w.category for w in caught] == [crewbus.PluginWarning], caught
            assert "not as crewbus-crewai knows it" in str(caught[0].message)
            assert "pip install -U crewbus-crewai" in str(caught[0].message)
            try:
                crewbus_crewai.install(bus)
            except crewbus.PluginError:
                pass
            else:
                raise AssertionError
        """
    )


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, code=""):
        (tmp_path / f"{name}.py").write_text(code)
        return name

    yield make
    for name in ("arrives", "fails_first"):
        sys.modules.pop(name, None)


def test_it_tells_once_the_module_is_whole(module):
    seen = []
    arrival = Arrival(module("arrives", "value = 1"), lambda: seen.append(sys.modules["arrives"].value))
    arrival.wait()
    assert importlib.import_module("arrives").value == 1
    assert seen == [1]
    assert arrival not in sys.meta_path


def test_meanwhile_its_loader_does_what_it_can(module):
    arrival = Arrival(module("arrives", "value = 1"), lambda: None)
    arrival.wait()
    loader = importlib.util.find_spec("arrives").loader
    assert loader.get_source("arrives") == "value = 1"
    assert pkgutil.get_data("arrives", "arrives.py") == b"value = 1"
    assert not hasattr(loader, "no_such_thing")


def test_finders_that_find_no_specs_are_passed_over(module, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [object(), *sys.meta_path])
    arrival = Arrival(module("arrives", "value = 1"), lambda: None)
    arrival.wait()
    assert importlib.import_module("arrives").value == 1


def test_an_import_that_fails_is_awaited_anew(module):
    seen = []
    arrival = Arrival(module("fails_first", "raise OSError('at first')"), lambda: seen.append(True))
    arrival.wait()
    with pytest.raises(OSError, match="at first"):
        importlib.import_module("fails_first")
    assert (seen, arrival in sys.meta_path) == ([], True)
    arrival.stop()
    arrival.stop()
    assert arrival not in sys.meta_path


def test_other_modules_and_missing_ones_are_none_of_its_business():
    arrival = Arrival("no_such_module_anywhere", lambda: pytest.fail("told"))
    arrival.wait()
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_anywhere")
        assert arrival.find_spec("json", None) is None
    finally:
        arrival.stop()
