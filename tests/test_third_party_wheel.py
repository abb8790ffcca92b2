"""A third party's plugin: built as a wheel, installed, found by its entry point, listed, blocked, and broken."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest
from wheels import build_wheel, can_build, install_alone, run

import crewbus

RUNS = 120.0
"""Seconds that running in a process of its own may take; it takes two."""


pytestmark = pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")

GOOD = '''\
"""Notes that it was imported, and every event it observes."""

import os
from pathlib import Path

import crewbus


def note(text):
    with Path(os.environ["ACME_NOTES"]).open("a") as notes:
        notes.write(f"{text}\\n")


note("imported")


@crewbus.event(name="acme.Sold")
class Sold:
    item: str


class Exporter:
    @crewbus.hookimpl
    def crewbus_emit(self, envelope):
        note(type(envelope.event).__name__)
'''

BROKEN = {
    "raises": "raise LookupError('no licence')",
    "exits": "import sys\nsys.exit('no licence')",
    "bad_argument": """\
        import crewbus

        @crewbus.hookimpl
        def crewbus_emit(envelop):
            pass
    """,
    "unknown_hook": """\
        import crewbus

        @crewbus.hookimpl
        def crewbus_emitt(envelope):
            pass
    """,
    "misconfigured": """\
        import crewbus

        @crewbus.hookimpl
        def crewbus_emit(envelope):
            raise AssertionError

        @crewbus.hookimpl
        def crewbus_configure(bus):
            raise SystemExit('no licence')
    """,
    "unreadable": """\
        class Unreadable(Exception):
            def __str__(self):
                raise RuntimeError

        raise Unreadable
    """,
}
REASONS = {
    "raises": ["LookupError", "no licence"],
    "exits": ["SystemExit", "no licence"],
    "bad_argument": ["crewbus_emit", "envelop", "bus, run, envelope"],
    "unknown_hook": ["crewbus_emitt", "did you mean crewbus_emit?"],
    "misconfigured": ["SystemExit", "no licence"],
    "missing": ["acme_broken.nowhere"],
    "no_attribute": ["Nothing"],
    "unreadable": ["Unreadable"],
}


def distribution(folder: Path, name: str, version: str, modules: dict[str, str], entry_points: dict[str, str]) -> Path:
    """Build a wheel of one package with these modules, install it in a fresh folder, and return that."""
    source, package = folder / "source", name.replace("-", "_")
    (source / package).mkdir(parents=True)
    for module, code in {"__init__": "", **modules}.items():
        (source / package / f"{module}.py").write_text(textwrap.dedent(code), "utf-8")
    points = "\n".join(f"    {key} = {value}" for key, value in entry_points.items())
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n', "utf-8"
    )
    (source / "setup.cfg").write_text(
        f"[metadata]\nname = {name}\nversion = {version}\n\n[options]\npackages = {package}\n"
        f"install_requires =\n    crewbus\n\n[options.entry_points]\ncrewbus =\n{points}\n",
        "utf-8",
    )
    return install_alone(build_wheel(source, folder), folder / "installed")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return distribution(
        tmp_path_factory.mktemp("good"),
        "acme-exporter",
        "1.2.3",
        {"exporter": GOOD},
        {"acme": "acme_exporter.exporter:Exporter"},
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    points = {name: f"acme_broken.{name}" for name in BROKEN}
    points |= {"missing": "acme_broken.nowhere", "no_attribute": "acme_broken:Nothing"}
    return distribution(tmp_path_factory.mktemp("broken"), "acme-broken", "0.9", BROKEN, points)


class Python:
    """A Python that finds what is installed in some folders, and what the plugin notes there."""

    def __init__(self, notes: Path, *folders: Path) -> None:
        self.path = notes
        # Ahead of them, the crewbus that is tested here: where it is no installed one, nothing else finds it.
        here = Path(crewbus.__file__).parent.parent
        self.env = {
            "PYTHONPATH": os.pathsep.join(map(str, [*folders, here])),
            "PYTHONSAFEPATH": "1",
            "CREWBUS_RECORD": "off",
            "ACME_NOTES": str(notes),
        }

    def __call__(self, code: str) -> str:
        return self._run("-c", textwrap.dedent(code))

    def command(self, *arguments: str) -> str:
        return self._run("-m", "crewbus", *arguments)

    def _run(self, *arguments: str) -> str:
        return run(sys.executable, *arguments, timeout=RUNS, **self.env).stdout

    @property
    def notes(self) -> list[str]:
        return self.path.read_text("utf-8").split() if self.path.exists() else []


@pytest.fixture
def python(good, tmp_path):
    return Python(tmp_path / "notes", good)


def test_it_is_found_by_its_entry_point_and_its_hook_is_called(python):
    printed = python("""
        import json, attrs, crewbus
        with crewbus.Bus(strict=True) as bus:
            from acme_exporter.exporter import Sold
            with bus.run():
                bus.emit(Sold("anvil"))
            (info,) = [info for info in bus.plugins.infos() if info.distribution == "acme-exporter"]
            print(json.dumps(attrs.asdict(info)))
    """)
    assert json.loads(printed) == {
        "name": "acme",
        "status": "loaded",
        "distribution": "acme-exporter",
        "version": "1.2.3",
        "hooks": ["crewbus_emit"],
        "reason": None,
    }
    assert python.notes == ["imported", "RunStarted", "Sold", "RunFinished"]


def test_the_command_lists_it(python):
    listed = {info["name"]: info for info in json.loads(python.command("plugins", "--json"))}
    assert listed["acme"]["distribution"] == "acme-exporter"
    assert listed["acme"]["version"] == "1.2.3"
    assert listed["acme"]["status"] == "loaded"
    assert "acme-exporter 1.2.3" in python.command("plugins")
    (hook,) = [hook for hook in json.loads(python.command("hooks", "--json")) if hook["name"] == "crewbus_emit"]
    assert "acme" in hook["implementations"]


def test_a_failure_of_it_names_its_distribution(python):
    printed = python("""
        import logging, crewbus
        logging.getLogger("crewbus").addHandler(logging.NullHandler())
        logging.getLogger("crewbus").propagate = False

        class Watcher:
            @crewbus.hookimpl
            def crewbus_plugin_error(self, failure):
                print(failure.name, failure.hook, failure.distribution, type(failure.error).__name__)

        with crewbus.Bus([Watcher], unscoped="ignore") as bus:
            import os
            from acme_exporter.exporter import Sold
            os.environ["ACME_NOTES"] = "/"
            bus.emit(Sold("anvil"))
    """)
    assert printed in (
        "acme crewbus_emit acme-exporter 1.2.3 IsADirectoryError\n",
        "acme crewbus_emit acme-exporter 1.2.3 PermissionError\n",
    )


def test_a_blocked_one_is_not_even_imported(python):
    printed = python("""
        import json, sys, attrs, crewbus
        with crewbus.Bus(blocked=["acme"], strict=True) as bus:
            assert bus.plugins.register(object(), "acme") is None
            (info,) = [info for info in bus.plugins.infos() if info.name == "acme"]
            print(json.dumps([attrs.asdict(info), [name for name in sys.modules if name.startswith("acme")]]))
    """)
    info, imported = json.loads(printed)
    assert (info["status"], info["distribution"], info["version"]) == ("blocked", "acme-exporter", "1.2.3")
    assert info["reason"] == "blocked by name"
    assert imported == []
    assert python.notes == []


def test_without_entry_points_nothing_is_looked_for(python):
    python("""
        import crewbus
        with crewbus.Bus(entry_points=False) as bus:
            assert not bus.plugins.has_plugin("acme")
    """)
    assert python.notes == []


def test_a_given_plugin_of_its_name_comes_first(python):
    printed = python("""
        import warnings, crewbus

        class Mine:
            pass

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with crewbus.Bus([("acme", Mine)]) as bus:
                print(type(bus.plugins.get_plugin("acme")).__name__, len(caught))
        import sys
        print("acme_exporter" in sys.modules)
    """)
    assert printed == "Mine 0\nFalse\n"


def test_broken_ones_are_skipped_by_name_and_the_process_continues(good, broken, tmp_path):
    """Whatever they do; the good one works, and nothing is left of the others."""
    python = Python(tmp_path / "notes", good, broken)
    printed = python("""
        import json, warnings, attrs, crewbus
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bus = crewbus.Bus(unscoped="ignore")
        with bus:
            from acme_exporter.exporter import Sold
            assert bus.emit(Sold("anvil")) is not None
            infos = [attrs.asdict(info) for info in bus.plugins.infos()]
            warned = [[w.category.__name__, str(w.message), w.filename] for w in caught]
            print(json.dumps([infos, warned, [name for name, _ in bus.plugins.list_name_plugin()]]))
    """)
    infos, warned, loaded = json.loads(printed)
    assert {info["name"]: info["status"] for info in infos if info["name"] in REASONS} == dict.fromkeys(
        REASONS, "broken"
    )
    assert [info["name"] for info in infos if info["name"] in REASONS and info["status"] == "loaded"] == []
    assert not set(loaded) & set(REASONS)
    assert python.notes == ["imported", "Sold"]
    for info in infos:
        if info["name"] in REASONS:
            assert (info["distribution"], info["version"]) == ("acme-broken", "0.9")
            assert all(words in info["reason"] for words in REASONS[info["name"]]), info
    assert len(warned) == len(REASONS)
    for name, reasons in REASONS.items():
        (entry,) = [entry for entry in warned if f"'{name}' (acme-broken 0.9)" in entry[1]]
        assert entry[0] == "PluginWarning"
        assert entry[2] == "<string>"
        assert all(words in entry[1] for words in reasons)


@pytest.mark.parametrize("name", REASONS)
def test_a_broken_one_is_refused_when_strict(broken, tmp_path, name):
    python = Python(tmp_path / "notes", broken)
    printed = python(f"""
        import crewbus
        others = {sorted(set(REASONS) - {name})}
        try:
            crewbus.Bus(blocked=others, strict=True)
        except crewbus.PluginError as error:
            print(error)
        with crewbus.Bus(blocked=[*others, {name!r}], strict=True) as bus:
            assert bus.run is not None
    """)
    assert f"'{name}' (acme-broken 0.9)" in printed
    assert all(words in printed for words in REASONS[name])


def test_the_command_lists_broken_ones_with_the_reason(broken, tmp_path):
    python = Python(tmp_path / "notes", broken)
    listed = {info["name"]: info for info in json.loads(python.command("plugins", "--json"))}
    for name, reasons in REASONS.items():
        assert listed[name]["status"] == "broken"
        assert (listed[name]["distribution"], listed[name]["version"]) == ("acme-broken", "0.9")
        assert all(words in listed[name]["reason"] for words in reasons)
    assert "LookupError: no licence" in python.command("plugins")
