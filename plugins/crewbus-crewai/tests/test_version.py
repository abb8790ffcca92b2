"""The range of supported versions: checked, and refused outside."""

from __future__ import annotations

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from helpers import quiet_bus

import crewbus
import crewbus_crewai
from crewbus_crewai._version import SUPPORTED, check_version

PACKAGE = Path(__file__).parents[1]


@pytest.fixture
def found(monkeypatch):
    def find(version):
        def answer(name):
            assert name == "crewai"
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", answer)

    return find


@pytest.mark.parametrize("version", ["1.15.23", "1.15.30", "1.15.99", "1.15.31rc1"])
def test_supported(found, version):
    found(version)
    check_version()


@pytest.mark.parametrize(
    "version", ["1.14.6", "1.15.0", "1.15.22", "1.15", "1.16.0", "1.16.0rc1", "2.0", "0.200.0", "unknown"]
)
def test_refused_naming_what_was_found_and_what_is_supported(found, version):
    found(version)
    with quiet_bus() as bus, pytest.raises(crewbus.PluginError) as refused:
        crewbus_crewai.install(bus)
    assert f"found crewai {version}" in str(refused.value)
    assert f"pip install -U 'crewai{SUPPORTED}'" in str(refused.value)
    crewbus_crewai.uninstall()


def test_without_crewai(found):
    found(None)
    with pytest.raises(crewbus.PluginError, match=f"none is installed.*pip install -U 'crewai{SUPPORTED}'"):
        check_version()


def test_as_a_plugin_it_is_skipped_with_a_warning(found):
    found("1.16.0")
    with pytest.warns(crewbus.PluginWarning, match=r"found crewai 1\.16\.0"):
        bus = crewbus.Bus(plugins=[("crewai", crewbus_crewai.CrewaiPlugin)], entry_points=False)
    with bus:
        assert bus.plugins.get_plugin("crewai") is None


def test_where_plugins_are_strict_it_is_an_error(found):
    found("1.16.0")
    with pytest.raises(crewbus.PluginError, match=r"found crewai 1\.16\.0"):
        crewbus.Bus(plugins=[crewbus_crewai.CrewaiPlugin], entry_points=False, strict=True)


def test_the_metadata_asks_for_the_same():
    setup = configparser.ConfigParser()
    setup.read(PACKAGE / "setup.cfg")
    assert f"crewai{SUPPORTED}" in setup["options"]["install_requires"].split()


def test_the_readme_says_the_same():
    assert f"`crewai{SUPPORTED}`" in (PACKAGE / "README.md").read_text()
