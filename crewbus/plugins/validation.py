"""Validation of a plugin before it is registered: reports what pluggy ignores or reports unclearly."""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import pluggy

from crewbus._util import did_you_mean, external_stacklevel
from crewbus.exceptions import PluginError, PluginWarning, text_of
from crewbus.plugins.markers import PROJECT

_MARK: Final = f"{PROJECT}_impl"
_YIELDING: Final = frozenset({"crewbus_event_types"})
"""The hooks that may be implemented by a generator which is no wrapper."""
_AROUND: Final = (functools.partial, functools.partialmethod, functools.cached_property)
"""Objects that may contain a marked function but are not one."""
_ABSENT: Final = object()


def check_identity(plugin: Any, title: str) -> None:
    """Raise `PluginError` if ``plugin`` is no plugin, or can't be distinguished from others."""
    if plugin is None or isinstance(plugin, str) or inspect.isroutine(plugin):
        raise PluginError(
            f"plugin {title}: {_kind(plugin)} is no plugin: give the object, module or class that holds the hookimpls"
        )
    why = "it equals other objects"
    try:
        hash(plugin)
        good = not (plugin == _ABSENT)  # noqa: SIM201 - it is the comparison that pluggy makes
    except Exception as error:
        good, why = False, text_of(error)
    if not good:
        raise PluginError(
            f"plugin {title} must be hashable, and equal only to itself ({why}): "
            "compare it by identity, with eq=False for attrs and dataclasses"
        )


def check_hookimpls(pm: pluggy.PluginManager, plugin: Any, title: str, hookspecs: types.ModuleType) -> None:
    """Raise `PluginError` if an implementation does not match its hookspec; warn if one would not be called.

    ``hookspecs``: the module with the bus's own hooks; those that plugins specify may be implemented by generators.
    """
    known = {name: caller for name, caller in vars(pm.hook).items() if caller.has_spec()}
    attributes: dict[str, Any] = {}
    for holder in (*reversed(type(plugin).__mro__), plugin):
        attributes.update(_own(holder))
    for attribute in dir(plugin):
        options = pm.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            _check_ignored(plugin, title, attribute, attributes.get(attribute, _ABSENT), attribute in known)
            continue
        hook = options.get("specname") or attribute
        wraps = bool(options.get("wrapper") or options.get("hookwrapper"))
        impl = _Impl(title, attribute, getattr(plugin, attribute), wraps)
        impl.check_kind()
        if hook in known:
            impl.check_against(known[hook], hookspecs)
        elif not options.get("optionalhook"):
            raise PluginError(f"plugin {title} implements {hook}, and there is no such hook{did_you_mean(hook, known)}")


class _Impl:
    """One implementation of a hook."""

    __slots__ = ("attribute", "function", "title", "wraps")

    def __init__(self, title: str, attribute: str, function: Callable[..., Any], wraps: bool) -> None:
        self.title = title
        """The plugin's name and distribution."""
        self.attribute = attribute
        self.function = function
        self.wraps = wraps

    def check_kind(self) -> None:
        if inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise PluginError(
                f"plugin {self.title}: {self.attribute} is 'async def', but hooks are called from "
                "synchronous code: make it a plain function, or subscribe an async handler with bus.on()"
            )

    def check_against(self, caller: pluggy.HookCaller, hookspecs: types.ModuleType) -> None:
        spec = caller.spec
        assert spec is not None
        self._check_arguments(caller.name, [*spec.argnames, *spec.kwargnames])
        ours = spec.namespace is hookspecs and caller.name not in _YIELDING
        if ours and not self.wraps and inspect.isgeneratorfunction(self.function):
            raise PluginError(
                f"plugin {self.title}: {caller.name} yields, so calling it would run nothing of it: "
                "mark a wrapper with @crewbus.hookimpl(wrapper=True)"
            )

    def _check_arguments(self, hook: str, takes: list[str]) -> None:
        parameters = list(inspect.signature(self.function).parameters.values())
        may = f"it may ask for {', '.join(takes)}" if takes else "it has no arguments"
        asked = [
            parameter.name
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
        unknown = [argument for argument in asked if argument not in takes]
        if unknown:
            near = did_you_mean(unknown[0], takes)
            raise PluginError(f"plugin {self.title}: {hook} asks for {', '.join(unknown)}; {may}{near}")
        never = [
            str(parameter)
            for parameter in parameters
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            or (parameter.kind is parameter.KEYWORD_ONLY and parameter.name in takes)
            or (parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty)
        ]
        if never:
            raise PluginError(
                f"plugin {self.title}: {hook} would never get {', '.join(never)}, since hooks pass what is asked for "
                f"by a plain name; {may}"
            )
        if isinstance(self.function, types.MethodType) and inspect.isfunction(self.function.__func__):
            self._check_self(self.function.__func__, hook, takes)

    def _check_self(self, function: types.FunctionType, hook: str, takes: list[str]) -> None:
        first = next(iter(inspect.signature(function).parameters), "")
        if first in takes:
            raise PluginError(f"plugin {self.title}: {hook} is a method, whose {first!r} would be the plugin: add self")


def _check_ignored(plugin: Any, title: str, attribute: str, found: Any, is_hook: bool) -> None:
    """Report an attribute that was meant as an implementation, but that pluggy ignores."""
    if _is_marked(found) or (is_hook and _is_marked(_inside(found))):
        raise PluginError(
            f"plugin {title}: {attribute} is marked with @crewbus.hookimpl, but is {_kind(found)}, "
            "which is not called: make it a function or method, with a name of its own"
        )
    if is_hook and inspect.isroutine(found):
        _warn(f"plugin {title}: {attribute} is not marked with @crewbus.hookimpl, so it is not called")
    elif is_hook and found is _ABSENT and inspect.ismodule(plugin):
        _warn(f"plugin {title}: {attribute} comes from the module's __getattr__, so it is not called: import it there")


def _own(holder: Any) -> Mapping[str, Any]:
    """The attributes of ``holder`` itself, read statically; `inspect.getattr_static` would take much longer."""
    try:
        return cast("Mapping[str, Any]", object.__getattribute__(holder, "__dict__"))
    except AttributeError:
        return {}


def _is_marked(found: Any) -> bool:
    owner = found.fget if isinstance(found, property) else found
    return isinstance(_own(owner).get(_MARK), dict)


def _inside(found: Any) -> Any:
    return found.func if isinstance(found, _AROUND) else None


def _kind(found: Any) -> str:
    return "None" if found is None else f"a {type(found).__qualname__}"


def _warn(text: str) -> None:
    warnings.warn(text, PluginWarning, stacklevel=external_stacklevel())
