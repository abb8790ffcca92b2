"""crewAI is patched when the application imports it; crewbus-crewai never imports it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
TIMEOUT = 60.0


def run(code):
    """Run a program, which asserts, in another process."""
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
            from crewai.flow.flow import Flow, start
            class Small(Flow):
                @start()
                def begin(self):
                    return crewbus.current_run().name
            assert Small().kickoff() == "Small"
            crewbus_crewai.uninstall()
            assert "crewbus" not in Flow.kickoff_async.__code__.co_filename
        """
    )


def test_a_crewai_that_cannot_be_patched_warns_and_stays_as_it_is(tmp_path):
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
            assert "cannot patch this version of crewAI" in str(caught[0].message)
            assert "pip install -U crewbus-crewai" in str(caught[0].message)
            try:
                crewbus_crewai.install(bus)
            except crewbus.PluginError:
                pass
            else:
                raise AssertionError
        """
    )


def test_the_provider_is_the_first_import_of_crewai():
    run(
        """
        import crewbus, crewbus_crewai, warnings
        from crewbus_crewai.integration import integration
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_crewai.install(bus)
            warnings.filterwarnings("error", category=crewbus.PluginWarning)
            from crewbus_crewai import CrewbusProvider
            assert integration._undo is not None
        """
    )
