"""The plugin: installed is recorded, to which file, and when not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import crewbus
from crewbus_sqlite import SQLiteStore, _plugin


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREWBUS_RECORD")


def bus(**options):
    return crewbus.Bus(plugins=[("sqlite", _plugin)], entry_points=False, strict=True, **options)


def recorded_by(made):
    """The files there are once a run was recorded, or not."""
    with made:
        assert not list(Path.cwd().iterdir())
        with made.run("writer", id="r1"):
            made.chunk("x")
        made.flush()
    return sorted(file.name for file in Path.cwd().iterdir())


def test_every_bus_records_to_a_file_in_the_working_directory():
    assert recorded_by(bus()) == ["crewbus.db"]
    store = SQLiteStore("crewbus.db")
    assert store.roots() == ["r1"]
    assert [event.name for event in store.read("r1")] == [
        "crewbus.RunStarted",
        "crewbus.Chunk",
        "crewbus.RunFinished",
    ]
    assert store.info("r1").sealed
    store.close()


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no", "False"])
def test_it_is_off_where_the_environment_says_so(value, monkeypatch):
    monkeypatch.setenv("CREWBUS_RECORD", value)
    assert recorded_by(bus()) == []


@pytest.mark.parametrize("value", ["on", "", "1", "sync"])
def test_it_is_on_where_it_says_anything_else(value, monkeypatch):
    monkeypatch.setenv("CREWBUS_RECORD", value)
    assert recorded_by(bus()) == ["crewbus.db"]


def test_the_environment_names_another_file(monkeypatch):
    monkeypatch.setenv("CREWBUS_STORE", "sqlite:///other.db?lease=3&busy=1")
    assert recorded_by(bus()) == ["other.db"]


def test_the_environment_names_another_kind_of_store(monkeypatch):
    monkeypatch.setenv("CREWBUS_STORE", "memory:")
    assert recorded_by(bus()) == []


def test_a_blocked_plugin_records_nothing():
    assert recorded_by(bus(blocked=["sqlite"])) == []


def test_without_a_recorder_there_is_nothing_to_arm():
    with bus(blocked=["checkpoint_recorder"]) as made:
        assert not made.recording.armed
        with pytest.raises(crewbus.RecordingError):
            made.enable_recording()
        assert made.plugins.get_plugin("sqlite") is _plugin


def test_a_store_that_no_plugin_opens_is_refused(monkeypatch):
    monkeypatch.setenv("CREWBUS_STORE", "postgres://somewhere")
    with pytest.raises(crewbus.PluginError, match="no plugin opens the store 'postgres://somewhere'"):
        bus()


def test_an_absolute_path(tmp_path):
    store = _plugin.crewbus_open_store(f"sqlite:///{tmp_path}/deep.db?busy=2")
    assert store.path == tmp_path / "deep.db"
    relative = _plugin.crewbus_open_store("sqlite:///x/deep.db")
    assert relative.path == tmp_path / "x" / "deep.db"
    for each in (store, relative):
        each.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite:record.db",
        "sqlite://record.db",
        "sqlite:///:memory:",
        "sqlite:///x.db?lease",
        "sqlite:///x.db?lease=",
        "sqlite:///x.db?lease=long",
        "sqlite:///x.db?lease=0",
        "sqlite:///x.db?lease=nan",
        "sqlite:///x.db?busy=-1",
        "sqlite:///x.db?leese=15",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(crewbus.InputError):
        _plugin.crewbus_open_store(url)


def test_what_is_wrong_with_a_url_is_said():
    with pytest.raises(crewbus.InputError, match=r"'sqlite:x' names no file: an SQLite store is sqlite:///relative/"):
        _plugin.crewbus_open_store("sqlite:x")
    with pytest.raises(crewbus.InputError, match=r"there is no option 'leese'\. An SQLite store is sqlite:///"):
        _plugin.crewbus_open_store("sqlite:///x.db?leese=15")


@pytest.mark.parametrize("url", ["memory:", "postgres://x", "sqlite3:///x.db", ""])
def test_other_schemes_are_left_to_others(url):
    assert _plugin.crewbus_open_store(url) is None


def test_a_process_that_only_exits_has_recorded():
    """Without a flush or close, the bus does it when the interpreter exits."""
    source = """
        import crewbus
        from crewbus_sqlite import _plugin
        bus = crewbus.Bus(plugins=[("sqlite", _plugin)], entry_points=False)
        run = bus.run("writer", id="r1")
        run.__enter__()
        bus.chunk("x")
    """
    code = "\n".join(line.strip() for line in source.splitlines())
    env = {name: value for name, value in os.environ.items() if not name.startswith("CREWBUS")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60, env=env)
    store = SQLiteStore("crewbus.db")
    assert [event.name for event in store.read("r1")][:2] == ["crewbus.RunStarted", "crewbus.Chunk"]
    assert not store.info("r1").alive
    store.close()


@pytest.mark.parametrize("closing", ["close", "aclose"])
def test_a_folder_that_cannot_be_written_is_one_error_that_says_what_to_set(closing, monkeypatch, tmp_path):
    monkeypatch.setenv("CREWBUS_STORE", "sqlite:///missing/crewbus.db")  # as a read-only folder, for root too
    made = bus()
    with made.run("r"):
        made.chunk("x")
    with pytest.raises(crewbus.RecordingError) as caught:
        made.close() if closing == "close" else asyncio.run(made.aclose())
    for word in ("'sqlite'", "CREWBUS_STORE=", "CREWBUS_RECORD=off", str(tmp_path)):
        assert word in str(caught.value)
    assert caught.value.__context__ is None


def test_code_that_names_a_store_is_not_told_to_set_variables():
    made = bus()
    made.enable_recording("sqlite:///missing/other.db")
    with made.run("r"):
        made.chunk("x")
    with pytest.raises(crewbus.RecordingError, match="it can't be opened") as caught:
        made.close()
    assert "CREWBUS" not in str(caught.value)
