"""The arrival of a module: whoever waits for it is told when somebody imports it, and nobody has to import it first."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Arrival(MetaPathFinder):
    """Calls ``tell()`` once the module ``name`` has been imported, in the thread that imports it.

    It tells of an import that is under way when it is stopped.
    """

    def __init__(self, name: str, tell: Callable[[], None]) -> None:
        self._name = name
        self._tell = tell

    def wait(self) -> None:
        """Begin to wait."""
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Wait no more; stopping again does nothing."""
        # Another list, since a thread that goes through this one for an import of its own would miss a finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the finders behind this one find, with a loader that tells."""
        if fullname != self._name:
            return None
        # Those before it were asked already; one of them may wait for the same module, and would ask this one again.
        behind = itertools.dropwhile(lambda finder: finder is not self, list(sys.meta_path))
        finds = (getattr(finder, "find_spec", None) for finder in behind if finder is not self)
        found = (find(fullname, path, target) for find in finds if find is not None)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self)
        return spec

    def arrived(self) -> None:
        """Wait no more, and tell."""
        self.stop()
        self._tell()


class _Telling(Loader):
    """A module's own loader, which in the end tells an `Arrival`."""

    def __init__(self, loader: Loader, arrival: Arrival) -> None:
        self._loader = loader
        self._arrival = arrival

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # of which others read data and sources

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._arrival.arrived()
