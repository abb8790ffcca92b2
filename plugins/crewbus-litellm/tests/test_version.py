"""The supported versions: others are rejected."""

from __future__ import annotations

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from helpers import quiet_bus

import crewbus
import crewbus_litellm
from crewbus_litellm.integration import integration

PACKAGE = Path(__file__).parents[1]


@pytest.fixture
def install(monkeypatch):
    """Installs for a bus, with the version given of litellm."""

    def install(version):
        with monkeypatch.context() as patch, quiet_bus() as bus:
            patch.setattr(metadata, "version", {"litellm": version}.__getitem__)
            crewbus_litellm.install(bus)

    yield install
    crewbus_litellm.uninstall()


@pytest.mark.parametrize("version", ["1.106.0", "1.108.9", "1.109.1", "1.110.99", "1.108.0rc1"])
def test_supported_versions_are_accepted(install, version):
    install(version)


@pytest.mark.parametrize("version", ["1.105.7", "1.111.0", "1.111.0rc1", "2.0", "0.200.0", "unknown"])
def test_unsupported_versions_are_rejected_with_the_version_found(install, version):
    with pytest.raises(crewbus.PluginError) as refused:
        install(version)
    assert f"found litellm {version}" in str(refused.value)
    assert f"pip install -U '{integration.requires}'" in str(refused.value)


def test_the_metadata_has_the_same_requirement():
    setup = configparser.ConfigParser()
    setup.read(PACKAGE / "setup.cfg")
    assert integration.requires in setup["options"]["install_requires"].split()
