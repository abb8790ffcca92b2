"""The range of supported versions: checked, and refused outside."""

from __future__ import annotations

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from helpers import quiet_bus

import crewbus
import crewbus_litellm
from crewbus_litellm._version import SUPPORTED, check_version


@pytest.fixture
def found(monkeypatch):
    def find(version):
        def answer(name):
            assert name == "litellm"
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", answer)

    return find


@pytest.mark.parametrize("version", ["1.106.0", "1.108.9", "1.109.1", "1.109.99", "1.108.0rc1"])
def test_supported(found, version):
    found(version)
    check_version()


@pytest.mark.parametrize("version", ["1.105.7", "1.110.0", "1.110.0rc1", "2.0", "0.200.0", "unknown"])
def test_refused_naming_what_was_found_and_what_is_supported(found, version):
    found(version)
    with quiet_bus() as bus, pytest.raises(crewbus.PluginError) as refused:
        crewbus_litellm.install(bus)
    assert version in str(refused.value)
    assert SUPPORTED in str(refused.value)
    crewbus_litellm.uninstall()


def test_without_litellm(found):
    found(None)
    with pytest.raises(crewbus.PluginError, match="none is installed"):
        check_version()


def test_as_a_plugin_it_is_skipped_with_a_warning(found):
    found("1.110.0")
    with pytest.warns(crewbus.PluginWarning, match=r"found litellm 1\.110\.0"):
        bus = crewbus.Bus(plugins=[("litellm", crewbus_litellm.LitellmPlugin)], entry_points=False)
    with bus:
        assert bus.plugins.get_plugin("litellm") is None


def test_where_plugins_are_strict_it_is_an_error(found):
    found("1.110.0")
    with pytest.raises(crewbus.PluginError, match=r"found litellm 1\.110\.0"):
        crewbus.Bus(plugins=[crewbus_litellm.LitellmPlugin], entry_points=False, strict=True)


def test_the_metadata_asks_for_the_same():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert f"litellm{SUPPORTED}" in setup["options"]["install_requires"].split()
