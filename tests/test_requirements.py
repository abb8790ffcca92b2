"""Required plugins: what a requirement means, and how a bus fails early where one is not met."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
from cli_helpers import Cli
from helpers import quiet_bus
from plugin_helpers import plugin

import crewbus
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins.requirements import Requirement


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("acme", ["0", "9!1.dev1"], []),
        ("acme>=0.1", ["0.1", "0.1.0", "0.1.post1", "0.2.dev1", "1!0"], ["0.0.9", "0.1rc1", "0.1.dev1"]),
        ("acme >= 0.1 , < 2", ["0.1", "1.9.9", "0.5"], ["2", "2.0rc1", "0.0.1"]),
        ("acme==1.2.*", ["1.2", "1.2.9", "1.2rc1", "1.2+local"], ["1.20", "1.3", "1"]),
        ("acme!=1.2.*", ["1.20", "1.3"], ["1.2", "1.2.1"]),
        ("acme~=1.4.2", ["1.4.2", "1.4.9"], ["1.5", "1.4.1"]),
        ("acme==1.0", ["1", "1.0.0", "1.0+cuda"], ["1.0.post1", "1.0.1"]),
        ("acme==1.0+cuda", ["1.0+CUDA"], ["1.0", "1.0+cpu"]),
        ("acme>1.7", ["1.7.1", "1.8"], ["1.7", "1.7.0.post1", "1.7+local"]),
        ("acme>1.7.post1", ["1.7.post2"], ["1.7.post1", "1.7.post1+local"]),
        ("acme<1.7", ["1.6.9"], ["1.7", "1.7rc1", "1.7.dev0"]),
        ("acme<=1.7", ["1.7+local", "1.7rc1"], ["1.7.post1"]),
    ],
)
def test_a_requirement_allows_the_versions_that_pip_allows_pre_releases_included(text, yes, no):
    requirement = Requirement.parse(text)
    assert requirement.name == "acme"
    assert [version for version in yes if requirement.problem(version) is not None] == []
    assert [version for version in no if requirement.problem(version) is None] == []


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "acme 1.0", "acme=1", "acme=>1", "acme>", "acme>=", ">=1", "acme>=1.x", "acme>=1 <2", "acme>1.*",
        "acme~=1", "acme>=1+local", "acme==1.0a1.*", "acme[extra]>=1; python_version>'3'", "acme, other",
        "acme>=1!", "acme>>1",
    ],
)  # fmt: skip
def test_a_malformed_requirement_is_an_error_with_examples(text):
    with pytest.raises(PluginError, match=r"written as 'sqlite', 'sqlite>=0\.1' or 'sqlite>=0\.1,<2'.* got ") as caught:
        quiet_bus_with(text)
    assert repr(text) in str(caught.value)


def quiet_bus_with(*texts, **options):
    """The plugins of a bus that requires these, and is closed again."""
    with crewbus.Bus(requires=texts, **{"entry_points": False, **options}) as bus:
        return [name for name, _ in bus.plugins.list_name_plugin()]


# On a bus


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Two installed plugins: one that works, of version 1.5, and one that does not."""
    for variable in ("CREWBUS_BLOCK", "CREWBUS_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in {"acme": "opened = []", "broken": "raise LookupError('no licence')"}.items():
        info = tmp_path / f"{name}_dist-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[crewbus]\n{name} = {name}_module\n")
        (tmp_path / f"{name}_module.py").write_text(CONFIGURED + code)
    importlib.invalidate_caches()
    yield
    for name in ("acme_module", "broken_module"):
        sys.modules.pop(name, None)


CONFIGURED = """
import crewbus

@crewbus.hookimpl
def crewbus_configure():
    opened.append("configured")

@crewbus.hookimpl
def crewbus_close():
    opened.append("closed")

"""


@pytest.mark.parametrize("text", ["acme", "acme>=1", "acme ~=1.2", "acme==1.5,!=1.4", "acme == 1.5.*"])
def test_a_met_requirement_loads_the_plugin(acme, text):
    assert "acme" in quiet_bus_with(text, plugins=["acme"])
    with crewbus.Bus(requires=text, blocked=["broken"]) as bus:
        assert bus.plugins.has_plugin("acme")


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("nobody", {}, "plugin 'nobody' is required, and is not installed"),
        ("acne>=1", {}, r"plugin 'acne' is required \(acne>=1\), and is not installed: did you mean acme\?"),
        ("acme-dist", {}, r"'acme-dist' is required, and is not installed: did you mean acme\?"),
        ("acme", {"entry_points": False}, r"'acme' is required, and is not there: .*entry_points=False"),
        ("acme", {"blocked": ["acme", "broken"]}, r"'acme' \(acme-dist 1.5\) is required, and is blocked by name"),
        ("acme>9", {"blocked": {"acme": "out of order", "broken": ""}}, r"\(acme>9\), and is out of order"),
        ("run_scope", {"blocked": ["run_scope", "broken"]}, "'run_scope' is required, and is blocked by name"),
        ("acme>=2", {}, r"'acme' \(acme-dist 1.5\) is required \(acme>=2\), and is of version 1.5"),
        ("run_scope<0.0.1", {}, r"'run_scope' is required \(run_scope<0.0.1\), and is of version \d"),
    ],
)
def test_an_unmet_requirement_fails_by_name(acme, text, options, says):
    with pytest.raises(PluginError, match=says):
        quiet_bus_with(text, **{"entry_points": True, "blocked": ["broken"], **options})
    assert not hasattr(sys.modules.get("acme_module"), "opened") or sys.modules["acme_module"].opened == []


def test_a_plugin_that_the_environment_blocks_is_reported_so(acme, monkeypatch):
    monkeypatch.setenv("CREWBUS_BLOCK", "acme,broken")
    with pytest.raises(PluginError, match=r"'acme' .*is required, and is blocked by CREWBUS_BLOCK"):
        quiet_bus_with("acme", entry_points=True)


def test_a_required_plugin_that_is_broken_is_reported_with_the_reason(acme):
    with pytest.warns(PluginWarning, match="'broken'"):
        with pytest.raises(PluginError, match=r"'broken' \(broken-dist 1.5\) is required, and is broken: .*no licence"):
            quiet_bus_with("acme", "broken", plugins=["acme", "broken"])
    assert sys.modules["acme_module"].opened == [], "the others have not begun to serve"


def test_a_required_plugin_that_can_not_be_configured_is_reported_and_the_others_are_closed(acme):
    refuses = plugin(crewbus_configure=lambda bus: 1 / 0)
    with pytest.warns(PluginWarning, match="'refuses'"):
        with pytest.raises(PluginError, match=r"'refuses' is required, and is broken: .*ZeroDivisionError"):
            quiet_bus_with("refuses", plugins=["acme", ("refuses", refuses)])
    assert sys.modules["acme_module"].opened == ["configured", "closed"]


def test_a_failed_constructor_leaves_no_live_bus():
    before = set(crewbus.bus.bus.live_buses)
    for options in ({"requires": ["nobody"]}, {"requires": ["=>"]}, {"unscoped": "sometimes"}):
        with pytest.raises(crewbus.CrewbusError):
            crewbus.Bus(entry_points=False, **options)
    assert set(crewbus.bus.bus.live_buses) == before


# Versions of what is not installed


def test_a_given_plugin_has_the_version_of_its_module():
    module = types.ModuleType("acme_plugin")
    module.__version__ = "3.1"
    with quiet_bus(plugins=[module], requires=["acme_plugin>=3"]) as bus:
        assert bus.plugins.has_plugin("acme_plugin")
    with pytest.raises(PluginError, match=r"and is of version 3\.1"):
        quiet_bus_with("acme_plugin<3", plugins=[module])


class Versionless:
    """Its module has no version."""


def test_a_plugin_without_a_version_meets_only_a_requirement_without_one():
    assert "Versionless" in quiet_bus_with("Versionless", plugins=[Versionless])
    with pytest.raises(PluginError, match="is of no known version: no distribution brings it, and its module has no"):
        quiet_bus_with("Versionless>=0", plugins=[Versionless])


def test_an_invalid_version():
    module = types.ModuleType("acme_plugin")
    module.__version__ = "unknown"
    with pytest.raises(PluginError, match="is of version 'unknown', which PEP 440 does not allow"):
        quiet_bus_with("acme_plugin>=3", plugins=[module])


def test_default_plugins_have_the_version_of_crewbus_unless_they_are_replaced():
    version = crewbus.__version__
    assert quiet_bus_with(f"run_scope=={version}", f"memory_store>={version}", f"checkpoint_recorder~={version}")
    with pytest.raises(PluginError, match="of no known version"):
        quiet_bus_with("run_scope>=0", plugins=[("run_scope", Versionless)])


# The command


def test_require_is_repeatable_and_may_stand_anywhere(acme, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crewbus.bus.default._default, "bus", None)
    monkeypatch.setenv("CREWBUS_BLOCK", "broken")
    cli = Cli(tmp_path, capsys)
    assert cli("--require", "acme>=1", "plugins", "--require=run_scope") == 0
    assert cli("--require", "acme>=1", "plugins", "--require", "acme>=2") == 2
    assert "crewbus: error: plugin 'acme' (acme-dist 1.5) is required (acme>=2), and is of version 1.5" in cli.err
    assert cli("runs", "--require", "acme=>1") == 2
    assert "a required plugin is written as" in cli.err
    assert cli("run", "nobody:knows", "--require", "nobody") == 2
    assert "plugin 'nobody' is required, and is not installed" in cli.err
