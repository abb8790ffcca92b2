"""What a third party has of `crewbus.testing`: of the wheel, in a fresh environment, under pytest-xdist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from wheels import CORE, Environment, build_wheel, can_build, run

ROOT = Path(__file__).parents[1]
EXTRA = ("hypothesis", "sortedcontainers", "objgraph", "sybil")
NEEDED = (*CORE, *EXTRA, "pytest", "iniconfig", "pygments", "pytest-xdist", "execnet")
"""What crewbus, its extra for tests and pytest-xdist need."""
PYTEST = ("-m", "pytest", "-n", "2", "-p", "no:cacheprovider")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        not can_build(*NEEDED), reason="building a wheel needs pip, setuptools 77 or later, and pytest-xdist"
    ),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the wheel, pytest and pytest-xdist."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = Environment(folder / "environment", *NEEDED)
    return environment.install(build_wheel(ROOT, folder)).python


PLUGIN = '''
"""A third party's plugin and store."""

import crewbus


@crewbus.event(name="acme.Sold")
class Sold:
    item: str


class Till:
    def __init__(self):
        self.sold = {}

    @crewbus.hookimpl
    def crewbus_event_types(self):
        return [Sold]

    @crewbus.hookimpl
    def crewbus_emit(self, run, envelope):
        if isinstance(envelope.event, Sold) and run is not None:
            self.sold[run] = self.sold.get(run, 0) + 1

    @crewbus.hookimpl
    def crewbus_run_finish(self, run):
        self.sold.pop(run, None)


class Shelf(crewbus.MemoryStore):
    pass
'''

TESTS = """
import pytest
from acme import Shelf, Sold
from crewbus.testing import StoreContract, examples

pytestmark = [pytest.mark.crewbus(plugins=["till"]), pytest.mark.usefixtures("no_leaks")]


class TestShelf(StoreContract):
    def open(self):
        return Shelf()


@pytest.mark.parametrize("number", range(20))
def test_it_counts(bus, captured_events, number):
    till = bus.plugins.get_plugin("till")
    with bus.run() as run:
        for _ in range(number):
            bus.emit(Sold("anvil"))
        assert till.sold.get(run, 0) == number == len(captured_events.of(Sold))


def test_a_recorded_run(bus, recorded_run):
    def sell(item):
        bus.emit(Sold(item))

    assert recorded_run(sell, "anvil").events[1] == Sold("anvil")


@pytest.mark.parametrize("example", examples("README.md"), ids=str)
def test_examples(example):
    example.check()
"""

README = """
```python
print("sold")
```

```text
sold
```
"""


@pytest.fixture
def third_party(tmp_path):
    """Writes its plugin, installed as a distribution, and its tests."""

    def write(plugin, tests=TESTS):
        (tmp_path / "acme.py").write_text(plugin)
        (tmp_path / "test_acme.py").write_text(textwrap.dedent(tests))
        (tmp_path / "README.md").write_text(README)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nfilterwarnings = error\naddopts = --strict-markers\npythonpath = .\n"
        )
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[crewbus]\ntill = acme:Till\n")
        return tmp_path

    return write


def test_a_third_partys_tests_pass_in_parallel(python, third_party):
    printed = run(python, *PYTEST, cwd=third_party(PLUGIN)).stdout
    (passed,) = re.findall(r"(\d+) passed", printed)
    assert int(passed) > 80
    assert "2 workers" in printed
    assert not re.search(r"failed|error", printed.splitlines()[-1])


def test_a_leaky_plugin_and_a_faulty_store_fail(python, third_party):
    leaky = PLUGIN.replace("self.sold.pop(run, None)", "pass").replace(
        "class Shelf(crewbus.MemoryStore):\n    pass",
        "class Shelf(crewbus.MemoryStore):\n"
        "    def append(self, root_id, epoch, event):\n"
        "        if event.seq != 1:\n"
        "            super().append(root_id, epoch, event)",
    )
    printed = run(python, *PYTEST, cwd=third_party(leaky), codes=(1,)).stdout
    assert re.search(
        r"test_acme.py::test_it_counts\[7\] left behind:\n  run \w+ is still held by the plugin 'till': Till.sold",
        printed,
    )
    assert "ERROR test_acme.py::test_it_counts[0]" not in printed
    assert re.search(r"FAILED test_acme.py::TestShelf::\w+", printed)
    assert re.search(r"RecordingError: .*\ba\b", printed)
    assert "0 passed" not in printed
