"""crewAI is patched when the application imports it; crewbus-crewai never imports it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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


def test_importing_a_crewai_that_cannot_be_patched_is_an_error(tmp_path):
    package = tmp_path / "crewai"
    package.mkdir()
    (package / "__init__.py").write_text("class Crew: pass\n")
    run(
        f"""
        import crewbus, crewbus_crewai
        sys.path.insert(0, {str(tmp_path)!r})
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_crewai.install(bus)
            for _ in range(2):
                try:
                    import crewai
                except crewbus.PluginError as error:
                    assert "cannot patch this version of crewAI" in str(error)
                    assert "pip install -U crewbus-crewai" in str(error)
                else:
                    raise AssertionError
        """
    )


FIRST = [
    "from crewbus_crewai import CrewbusProvider",
    "import crewbus_crewai.checkpoints",
    "import crewbus_crewai.patched.events",
    "import crewbus_crewai.patched.patches",
]


@pytest.mark.parametrize("first", FIRST)
def test_any_module_may_be_the_first_import_of_crewai(first):
    run(
        f"""
        import crewbus, crewbus_crewai
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_crewai.install(bus)
            {first}
            from crewai.flow.flow import Flow, start
            class Small(Flow):
                @start()
                def begin(self):
                    return crewbus.current_run().name
            assert Small().kickoff() == "Small"
        """
    )


AGENT = """
from crewbus_crewai import CrewbusProvider
import crewbus
from crewai.flow.flow import Flow, start

class Small(Flow):
    @start()
    def begin(self):
        return crewbus.current_run()

def main():
    run = Small().kickoff()
    print(f"in {run.name}, in {run.parent.name}")
"""


def test_crewbus_run_of_a_script_that_imports_the_provider_first(tmp_path):
    (tmp_path / "agent.py").write_text(AGENT)
    done = subprocess.run(
        [sys.executable, "-m", "crewbus", "run", "agent.py:main"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in Small, in " in done.stdout, done.stdout + done.stderr
