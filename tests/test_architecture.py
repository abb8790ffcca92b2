"""The structure of the code, the facade, and what is public. `tox -e lint` checks the direction of imports."""

from __future__ import annotations

import ast
import doctest
import gc
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import crewbus

PACKAGE = Path(crewbus.__file__).parent
CHECKOUT = Path(__file__).parents[1]


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def runtime_imports(tree):
    """Each import of our own modules with whether it stands inside a function; those for type checkers left out."""

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").partition(".")[0] == "crewbus":
                yield from ((target, inside) for target in targets(child))
            elif isinstance(child, ast.Import):
                yield from (
                    (a.name.removeprefix("crewbus."), inside) for a in child.names if a.name.startswith("crewbus.")
                )
            yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    def targets(node):
        if node.module != "crewbus":
            return [node.module.removeprefix("crewbus.")]
        # Names of the façade, which loads what it is asked for, or modules.
        return [alias.name for alias in node.names if alias.name in MODULES]

    return list(walk(tree, False))


@pytest.mark.parametrize("module", MODULES)
def test_no_import_hides_in_a_function(module):
    for target, inside in runtime_imports(ast.parse(MODULES[module].read_text())):
        assert not inside, f"crewbus.{module} imports crewbus.{target} inside a function"


def plain_locks_in_with(tree):
    """The `threading` locks that a ``with`` statement of this module holds, as they are written."""
    made = {
        ast.unparse(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        if re.search(r"\bthreading\.(Lock|RLock|Condition)\(", ast.unparse(node.value))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
    }
    withs = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    return made & {ast.unparse(item.context_expr) for node in withs for item in node.items}


def test_an_interrupt_leaves_no_lock_held_that_a_with_statement_takes():
    """Since Python 3.14 one may come between the lock and the statement's body: `reentrant_lock` is made for that."""
    paths = [path for name, path in MODULES.items() if not name.startswith("testing.")]
    paths += (CHECKOUT / "plugins").glob("*/crewbus_*/**/*.py")
    held = {str(path): plain_locks_in_with(ast.parse(path.read_text("utf-8"))) for path in paths}
    assert {path: locks for path, locks in held.items() if locks} == {}


def test_modules_keep_their_size():
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 475}
    assert long == {}


def documented_packages():
    """The table of packages of docs/architecture.md: the modules and subpackages that it names, by package."""
    page = (CHECKOUT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]+\|([^|]*)\|$", page.partition("| package |")[2].partition("\n\n")[0], re.MULTILINE
    )
    return {package: sorted(re.findall(r"`([\w/]+)`", modules)) for package, modules in rows}


def test_the_page_on_architecture_names_the_packages_in_the_order_of_their_layers():
    pyproject = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    (layers,) = [one["layers"] for one in pyproject["tool"]["importlinter"]["contracts"] if one["id"] == "layers"]
    assert list(documented_packages()) == layers


@pytest.mark.parametrize("package", documented_packages())
def test_the_page_on_architecture_names_every_module(package):
    folder = PACKAGE / package
    modules = [path.stem for path in folder.rglob("*.py") if path.stem != "__init__"]
    subpackages = [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    assert documented_packages()[package] == sorted(modules + subpackages)


def test_the_page_on_architecture_names_classes_and_attributes_that_exist():
    modules = [importlib.import_module(f"crewbus.{name}") for name in MODULES if name not in ("__init__", "__main__")]
    classes = {name: found for module in modules for name, found in vars(module).items() if isinstance(found, type)}
    page = (CHECKOUT / "docs" / "architecture.md").read_text("utf-8")
    for name, attribute in re.findall(r"`([A-Z]\w*[a-z]\w*)(?:\.(\w+))?(?:\(.*?\))?`", page):
        assert name in classes, name
        found = not attribute or hasattr(classes[name], attribute)
        assert found or f"self.{attribute}" in inspect.getsource(classes[name]), f"{name}.{attribute}"


def test_all_is_the_truth():
    assert sorted(crewbus.__all__) == crewbus.__all__
    for name in crewbus.__all__:
        assert getattr(crewbus, name) is not None


def test_type_checkers_and_the_facade_find_each_name_in_the_same_package():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    declared = {alias.asname: node.module for node in imports for alias in node.names}
    assert declared == {name: f"crewbus.{package}" for name, package in crewbus._HOME.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Buss'"):
        _ = crewbus.Buss


@pytest.mark.parametrize("name", [name for name in crewbus.__all__ if not name.startswith("_")])
def test_every_public_name_is_documented(name):
    value = getattr(crewbus, name)
    if name in ("hookimpl", "hookspec"):
        return  # pluggy's markers
    assert (value.__doc__ or "").strip()
    if isinstance(value, type) and value.__module__.startswith("crewbus"):
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and callable(member):
                inherited = any(getattr(getattr(base, attribute, None), "__doc__", None) for base in value.__mro__)
                assert member.__doc__ or inherited, f"{name}.{attribute}"


@pytest.mark.parametrize("unloaded", ["asyncio", "cattrs", "logging", "concurrent.futures"])
def test_importing_crewbus_loads_little(unloaded):
    code = f"import crewbus, sys; assert {unloaded!r} not in sys.modules, sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


LOADED_WITH_THE_BUS = {
    "durability": {"gate", "limits"},
    "records": set(),
    "serialization": set(),
    "stores": {"users"},
    "streams": {"waker"},
    "work": set(),
}
"""Of packages that load their modules at first use: the modules that `crewbus.Bus` needs at once."""
STANDARD_LIBRARY_OF_THE_BUS = {"atexit", "contextvars", "math"}
"""What `crewbus.Bus` may load of it besides what pluggy and attrs have loaded; and modules with a private name."""


def loaded_by(statement: str) -> list[str]:
    """The modules that ``statement`` loads besides those that pluggy and attrs do."""
    code = f"import attrs, pluggy, sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    child = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    return child.stdout.split()


def test_the_bus_loads_nothing_heavy_of_the_standard_library():
    loaded = loaded_by("import crewbus; crewbus.Bus")
    assert "crewbus.bus.bus" in loaded
    others = {name.partition(".")[0] for name in loaded if not name.startswith("_")} - {"crewbus"}
    assert others <= STANDARD_LIBRARY_OF_THE_BUS


@pytest.mark.parametrize("package", LOADED_WITH_THE_BUS)
def test_the_bus_loads_what_it_may_never_need_at_first_use(package):
    prefix = f"crewbus.{package}."
    loaded = loaded_by("import crewbus; crewbus.Bus")
    assert {name.removeprefix(prefix) for name in loaded if name.startswith(prefix)} == LOADED_WITH_THE_BUS[package]


def test_a_run_that_is_neither_recorded_nor_streamed_loads_nothing_of_recording_and_streams():
    used = "b = crewbus.Bus(entry_points=False); r = b.run(); r.__enter__(); b.chunk('x'); r.__exit__(None, None, None)"
    loaded = loaded_by(f"import crewbus; {used}; b.close()")
    for package in ("durability", "records", "serialization", "streams"):
        prefix = f"crewbus.{package}."
        assert {name.removeprefix(prefix) for name in loaded if name.startswith(prefix)} == LOADED_WITH_THE_BUS[package]


def test_a_bus_without_async_handlers_or_recording_loads_neither_asyncio_nor_cattrs():
    code = (
        "import crewbus, sys\n"
        "with crewbus.Bus(entry_points=False) as bus, bus.run():\n"
        "    bus.on(crewbus.Chunk, print)\n"
        "    bus.chunk('x')\n"
        "assert not {'asyncio', 'cattrs'} & {*sys.modules}, sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__main__"])
def test_examples_in_docstrings(module):
    found = importlib.import_module("crewbus" if module == "__init__" else f"crewbus.{module}")
    gc.collect()  # a run that another test abandoned counts as recorded until then, and a step outside it is warned of
    assert doctest.testmod(found).failed == 0
