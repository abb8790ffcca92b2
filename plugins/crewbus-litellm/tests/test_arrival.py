"""litellm is followed from when somebody imports it; nobody has to, and we never do."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crewbus_litellm._arrival import Arrival

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


def test_neither_importing_nor_installing_imports_litellm():
    run(
        """
        import crewbus, crewbus_litellm
        bus = crewbus.Bus(plugins=[("litellm", crewbus_litellm.LitellmPlugin)], entry_points=False)
        crewbus_litellm.install(bus)
        crewbus_litellm.install()
        with bus, bus.run():
            bus.chunk("x")
        assert not [name for name in sys.modules if name.partition(".")[0] in {"litellm", "openai", "httpx"}]
        """
    )


def test_installed_before_litellm_is_imported():
    run(
        """
        import crewbus, crewbus_litellm
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_litellm.install(bus)
            (ours,) = (finder for finder in sys.meta_path if type(finder).__module__.startswith("crewbus_litellm"))
            from litellm import completion
            import litellm
            assert ours not in sys.meta_path
            assert type(litellm.__loader__) is type(litellm.__spec__.loader) is type(crewbus.__loader__)
            heard = []
            with bus.callbacks(heard.append):
                completion("openai/x", [{"role": "user", "content": "?"}], mock_response="!")
            assert [type(one.event) for one in heard] == [crewbus.CallStarted, crewbus.CallFinished], heard
        """
    )


def test_uninstalled_before_litellm_is_imported():
    run(
        """
        import crewbus, crewbus_litellm
        with crewbus.Bus(entry_points=False) as bus:
            before = list(sys.meta_path)
            crewbus_litellm.install(bus)
            assert sys.meta_path != before
            crewbus_litellm.uninstall()
            assert sys.meta_path == before
            import litellm
            assert "crewbus" not in litellm.completion.__code__.co_filename
        """
    )


def test_a_litellm_that_is_not_as_it_is_known_warns_and_is_left_alone(tmp_path):
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("from litellm.main import completion\ndef acompletion(): pass\n")
    (package / "main.py").write_text("def completion(): return 1\n")
    run(
        f"""
        import warnings, crewbus, crewbus_litellm
        sys.path.insert(0, {str(tmp_path)!r})
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_litellm.install(bus)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                import litellm
            assert [w.category for w in caught] == [crewbus.PluginWarning], caught
            assert "not as crewbus-litellm knows it" in str(caught[0].message)
            assert litellm.completion() == 1
            try:
                crewbus_litellm.install(bus)
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
