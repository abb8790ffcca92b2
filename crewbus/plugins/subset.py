"""Some implementations of a hook, called through pluggy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pluggy import HookImpl

Execute = Callable[[str, Sequence[HookImpl], Mapping[str, Any], bool], Any]
"""Calls implementations of a hook, in reverse order; monitors and tracers see the call."""


class HookSubset:
    """A fixed set of implementations of a hook, called as pluggy's own `HookCaller` calls all of them.

    `pluggy.PluginManager.subset_hook_caller` would include plugins that are registered later, and lose one that is
    unregistered meanwhile.
    """

    __slots__ = ("_execute", "_impls", "name", "spec")

    def __init__(self, name: str, spec: Any, impls: tuple[HookImpl, ...], execute: Execute) -> None:
        self.name = name
        self.spec = spec
        """The hook's specification, as pluggy has it."""
        self._impls = impls
        self._execute = execute

    def get_hookimpls(self) -> list[HookImpl]:
        """The implementations; the last one is called first."""
        return list(self._impls)

    def __call__(self, **values: Any) -> Any:
        """Call the implementations and return their results, without None."""
        return self._execute(self.name, self._impls, values, False)
