"""Which of the installed plugins a bus loads: by the environment, by the constructor, and what it says of the rest."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

import crewbus
from crewbus import cli
from crewbus.exceptions import PluginError, PluginWarning
from crewbus.plugins import loading as _loading

MODULE = """\
import crewbus

heard = []

@crewbus.hookimpl
def crewbus_emit(envelope):
    heard.append(type(envelope.event).__name__)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("CREWBUS_BLOCK", raising=False)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install distributions, as far as Python can see, each with one plugin of its own name."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def install(name, source=MODULE, target=None):
        info = tmp_path / f"{name}_dist-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[crewbus]\n{name} = {target or f'{name}_module'}\n")
        (tmp_path / f"{name}_module.py").write_text(source)
        made.append(f"{name}_module")
        importlib.invalidate_caches()

    yield install
    for module in made:
        sys.modules.pop(module, None)


def loaded(**options):
    """The installed plugins that a bus loads, among those of these tests."""
    with crewbus.Bus(**options) as bus:
        return [name for name, plugin in bus.plugins.list_name_plugin() if plugin and name in ("red", "green", "blue")]


def statuses(**options):
    with crewbus.Bus(**options) as bus:
        return {info.name: (info.status, info.reason) for info in bus.plugins.infos()}


@pytest.fixture
def three(install):
    for name in ("red", "green", "blue"):
        install(name)


def test_all_by_default(three):
    assert sorted(loaded()) == ["blue", "green", "red"]
    assert loaded(entry_points=False) == []


@pytest.mark.parametrize("value", ["red", " red ,", "red,red", "nobody,red"])
def test_the_environment_blocks_by_name_before_import(three, monkeypatch, value):
    monkeypatch.setenv("CREWBUS_BLOCK", value)
    assert sorted(loaded()) == ["blue", "green"]
    assert "red_module" not in sys.modules
    assert statuses()["red"] == ("blocked", "blocked by CREWBUS_BLOCK")


@pytest.mark.parametrize("value", ["", " , "])
def test_an_empty_variable_blocks_nothing(three, monkeypatch, value):
    monkeypatch.setenv("CREWBUS_BLOCK", value)
    assert sorted(loaded()) == ["blue", "green", "red"]


def test_the_environment_blocks_default_plugins_too(monkeypatch):
    monkeypatch.setenv("CREWBUS_BLOCK", "checkpoint_recorder")
    with crewbus.Bus(entry_points=False) as bus, pytest.raises(crewbus.RecordingError, match="blocked"):
        bus.enable_recording()


def test_the_constructor_goes_before_the_environment(three, monkeypatch):
    monkeypatch.setenv("CREWBUS_BLOCK", "green")
    assert sorted(loaded()) == ["blue", "red"]
    assert sorted(loaded(blocked=())) == ["blue", "green", "red"]
    assert sorted(loaded(blocked=["red"])) == ["blue", "green"]
    assert loaded(plugins=["red", "green"], blocked=["red"], entry_points=False) == ["green"]


def test_without_entry_points_only_the_named_plugins_are_loaded_and_imported(three):
    assert loaded(plugins=["red"], entry_points=False) == ["red"]
    assert loaded(plugins="blue", entry_points=False) == ["blue"]
    assert "green_module" not in sys.modules


class Red:
    """A plugin that does nothing."""


def test_a_plugin_that_the_constructor_is_given_is_not_blocked_by_the_environment(three, monkeypatch):
    monkeypatch.setenv("CREWBUS_BLOCK", "red,Red")
    assert sorted(loaded(plugins=[("red", Red)])) == ["blue", "green", "red"]
    with crewbus.Bus([Red], entry_points=False) as bus:
        assert bus.plugins.has_plugin("Red")
    with crewbus.Bus([Red], entry_points=False, blocked=["Red"]) as bus:
        assert not bus.plugins.has_plugin("Red")


def test_a_plugin_that_the_constructor_is_given_takes_the_place_of_an_installed_one(three):
    mine = Red()
    with crewbus.Bus([("red", mine)]) as bus:
        assert bus.plugins.get_plugin("red") is mine
        assert bus.plugins.has_plugin("green")
        assert bus.plugins.origin("red") == "red-dist 1.5", "it stands for that distribution's"
    assert "red_module" not in sys.modules


def test_an_installed_plugin_that_was_not_loaded_may_join_later(three):
    with crewbus.Bus(entry_points=False) as bus:
        assert bus.plugins.register(type("Red", (), {}), "red") == "red"
        assert [info.status for info in bus.plugins.infos() if info.name == "red"] == ["loaded"]


def test_a_slow_import_is_reported_by_name(three, monkeypatch):
    monkeypatch.setattr(_loading, "SLOW_IMPORT", -1.0)
    with pytest.warns(PluginWarning) as received:
        assert sorted(loaded()) == ["blue", "green", "red"]
    names = {str(warning.message).partition(" took ")[0] for warning in received}
    assert names >= {f"plugin '{name}' ({name}-dist 1.5)" for name in ("blue", "green", "red")}
    assert "CREWBUS_BLOCK=" in str(received[0].message)


def test_a_quick_import_is_not_reported(three):
    assert len(loaded()) == 3  # warnings are errors here


@pytest.mark.parametrize("source", ["raise LookupError('no licence')", "import nobody_has_this", "1 +"])
def test_a_plugin_that_fails_to_import_is_named_and_the_others_are_loaded(install, source):
    install("red", source)
    install("green")
    with pytest.warns(PluginWarning, match=r"plugin 'red' \(red-dist 1.5\) was skipped: "):
        assert loaded() == ["green"]
    with pytest.raises(PluginError, match=r"'red' \(red-dist 1.5\) failed to load"):
        loaded(strict=True)
    assert loaded(blocked=["red"], strict=True) == ["green"]


@pytest.mark.parametrize("metadata", [None, "", "Metadata-Version: 2.1\n", "\xff\xfe"])
def test_a_plugin_whose_distribution_has_no_metadata_is_loaded_without_one(install, tmp_path, metadata):
    install("red")
    path = tmp_path / "red_dist-1.5.dist-info" / "METADATA"
    path.unlink() if metadata is None else path.write_text(metadata, encoding="latin-1")
    assert loaded() == ["red"]


@pytest.mark.parametrize("target", ["red_module:nobody", "nobody_module"])
def test_an_entry_point_without_a_target_is_reported_by_name(install, target):
    install("red", target=target)
    install("green")
    with pytest.warns(PluginWarning, match=r"plugin 'red' \(red-dist 1.5\) was skipped: "):
        assert loaded() == ["green"]


@pytest.mark.parametrize("target", ["red-module", "red_module:a b", " "])
def test_a_malformed_target_is_reported_with_its_distribution(install, target):
    install("red", target=target)
    install("green")
    # Since Python 3.15, one malformed target makes all entry points of its distribution unreadable.
    reported = r"\(red-dist 1.5\) was skipped: |the entry points of red-dist can't be read"
    with pytest.warns(PluginWarning, match=reported):
        assert loaded() == ["green"]


@pytest.mark.parametrize("text", ["[crewbus]\ngreen\n", "\xff\xfe"])
def test_malformed_entry_points_affect_only_their_distribution(install, tmp_path, text):
    install("red")
    install("green")
    (tmp_path / "green_dist-1.5.dist-info" / "entry_points.txt").write_text(text, encoding="latin-1")
    with pytest.warns(PluginWarning, match="the entry points of green-dist can't be read"):
        assert loaded() == ["red"]


def test_two_distributions_that_name_one_plugin(install, tmp_path):
    install("red")
    again = tmp_path / "again_dist-2.dist-info"
    again.mkdir()
    (again / "METADATA").write_text("Metadata-Version: 2.1\nName: again-dist\nVersion: 2\n")
    (again / "entry_points.txt").write_text("[crewbus]\nred = red_module\n")
    with pytest.warns(PluginWarning, match="was skipped: a plugin named 'red' is loaded already"):
        with crewbus.Bus(requires=["red"]) as bus:
            infos = [(info.status, info.distribution) for info in bus.plugins.infos() if info.name == "red"]
    assert sorted(infos) in (
        [("broken", "again-dist"), ("loaded", "red-dist")],
        [("broken", "red-dist"), ("loaded", "again-dist")],
    )


def test_the_command_lists_blocked_plugins(three, monkeypatch, capsys):
    monkeypatch.setenv("CREWBUS_BLOCK", "red,memory_store")
    monkeypatch.setattr(crewbus.bus.default._default, "bus", None)
    assert cli.main(["plugins", "--json"]) == 0
    shown = {info["name"]: info for info in json.loads(capsys.readouterr().out)}
    assert (shown["red"]["status"], shown["red"]["distribution"]) == ("blocked", "red-dist")
    assert shown["memory_store"]["reason"] == "blocked by CREWBUS_BLOCK"
    assert shown["green"]["status"] == "loaded"
    crewbus.default_bus().close()
