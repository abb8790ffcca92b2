"""The distribution: built as a wheel, installed in a fresh environment, found, listed, blocked, and uninstalled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from wheels import CORE, Environment, build_wheel, can_build, wheels_of

PLUGIN = Path(__file__).parents[1]
NEEDED = ("anyio", "click", "h11", "idna", "jinja2", "markupsafe", "starlette", "uvicorn")

pytestmark = pytest.mark.skipif(not can_build(*NEEDED), reason="building a wheel needs pip and setuptools 77 or later")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    return [*wheels_of(PLUGIN, folder), build_wheel(PLUGIN.parent / "crewbus-workers", folder / "workers")]


@pytest.fixture
def installed(wheels, tmp_path):
    return Environment(tmp_path / "environment", *CORE, *NEEDED).install(*wheels)


def test_it_is_found_listed_blocked_and_gone_when_uninstalled(installed):
    info = installed.loaded("http", PLUGIN)
    assert info["hooks"] == ["crewbus_cli_commands"]

    lazy = """
        import sys, crewbus
        with crewbus.Bus(strict=True) as bus:
            print(bus.plugins.has_plugin("http"), "starlette" in sys.modules)
    """
    assert installed(lazy) == "True False\n"

    blocked = """
        import sys, crewbus
        with crewbus.Bus(blocked=["http"], strict=True) as bus:
            print(bus.plugins.get_plugin("http"), "crewbus_http" in sys.modules)
    """
    assert installed(blocked) == "None False\n"

    installed.assert_gone_when_uninstalled("http", "crewbus-http")


def test_the_wheel_has_the_page_and_the_licences_of_what_it_brings(wheels):
    with zipfile.ZipFile(wheels[1]) as wheel:
        page = {name.partition("/page/")[2] for name in wheel.namelist() if "/page/" in name}
    folder = PLUGIN / "crewbus_http" / "page"
    files = {str(path.relative_to(folder)) for kind in ("static", "templates") for path in (folder / kind).iterdir()}
    assert files <= page
    assert {"static/htmx.LICENSE.txt", "static/htmx-sse.LICENSE.txt", "static/page.css"} <= files


def test_the_wheel_has_types_and_the_licence_and_no_tests(installed):
    installed.assert_has_types_and_licence_and_no_tests("crewbus-http")
