"""The modules of a plugin distribution import each other one way: annotations and imports in functions included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
PACKAGES = sorted(setup.parent / setup.parent.name.replace("-", "_") for setup in PLUGINS.glob("*/setup.cfg"))


def module_names(package):
    """The modules of the package: their source files by dotted name."""
    files = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imported_names(tree):
    """The dotted names that the code imports, at any depth, by statement or by `importlib.import_module`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom(level=level) if level:
                raise AssertionError("relative imports are not used here")
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def import_graph(files):
    """Which modules of the package each module imports."""

    def modules_among(names):
        for name in names:
            found = name if name in files else name.rpartition(".")[0]
            if found in files:
                yield found

    return {
        module: set(modules_among(imported_names(ast.parse(file.read_text("utf-8"))))) - {module}
        for module, file in files.items()
    }


def cycle_in(graph):
    """A cycle of the graph, as a list of modules; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_plugin_distribution_has_no_import_cycle(package):
    files = module_names(package)
    assert package.name in files
    assert cycle_in(import_graph(files)) == []


def test_a_cycle_through_an_annotation_or_a_function_is_found(tmp_path):
    package = tmp_path / "birds"
    package.mkdir()
    (package / "__init__.py").write_text("from birds.parrot import Parrot\n")
    (package / "parrot.py").write_text("if TYPE_CHECKING:\n    from birds.cage import Cage\n")
    (package / "cage.py").write_text("def open():\n    from birds import parrot\n")
    graph = import_graph(module_names(package))
    assert graph == {"birds": {"birds.parrot"}, "birds.parrot": {"birds.cage"}, "birds.cage": {"birds.parrot"}}
    assert set(cycle_in(graph)) == {"birds.parrot", "birds.cage"}
    (package / "cage.py").write_text("importlib.import_module('birds.parrot')\n")
    assert cycle_in(import_graph(module_names(package)))
