"""litellm is patched when the application imports it; crewbus-litellm never imports it."""

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
            from litellm import completion
            import litellm
            assert type(litellm.__loader__) is type(litellm.__spec__.loader) is type(crewbus.__loader__)
            heard = []
            with bus.callbacks(heard.append):
                completion("openai/x", [{"role": "user", "content": "?"}], mock_response="!")
            assert [type(one.event) for one in heard] == [crewbus.CallStarted, crewbus.CallFinished], heard
        """
    )


def test_importing_a_litellm_that_cannot_be_patched_is_an_error(tmp_path):
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("from litellm.main import completion\ndef acompletion(): pass\n")
    (package / "main.py").write_text("def completion(): return 1\n")
    run(
        f"""
        import crewbus, crewbus_litellm
        sys.path.insert(0, {str(tmp_path)!r})
        with crewbus.Bus(entry_points=False) as bus:
            crewbus_litellm.install(bus)
            try:
                import litellm
            except crewbus.PluginError as error:
                assert "cannot patch this version of litellm" in str(error)
            else:
                raise AssertionError
            crewbus_litellm.uninstall(bus)
            import litellm
            assert litellm.completion() == 1
            try:
                crewbus_litellm.install(bus)
            except crewbus.PluginError:
                pass
            else:
                raise AssertionError
        """
    )
