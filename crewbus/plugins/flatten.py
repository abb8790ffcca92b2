"""Hooks flattened: for each hook, in call order, the plain functions that stand for a call of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs

from crewbus.events import Envelope
from crewbus.plugins.isolation import Guard, collecting

if TYPE_CHECKING:
    from pluggy import HookCaller, HookImpl

    from crewbus.plugins.manager import PluginManager

Function = Callable[..., Any]


def project(impl: HookImpl, arguments: tuple[str, ...]) -> Function:
    """``impl``'s function without its guard, taking ``arguments`` by position and passing on those it names."""
    function = impl.function.function if isinstance(impl.function, Guard) else impl.function
    if impl.argnames == arguments and not impl.kwargnames:
        return cast(Function, function)
    named = [f"{name}={name}" for name in impl.kwargnames if name in arguments]
    call = ", ".join([*impl.argnames, *named])
    # Only names that pluggy has checked against the hookspec get here.
    return cast(Function, eval(f"lambda {', '.join(arguments)}: function({call})", {"function": function}))


def flatten(hook: HookCaller, through_pluggy: bool) -> tuple[Function, ...]:
    """The functions that stand for a call of ``hook``, in call order, taking the hookspec's arguments by position.

    Where a wrapper stands in the way, or ``through_pluggy`` says that calls are watched, that is one
    function: pluggy's own call.
    """
    assert hook.spec is not None
    arguments = tuple(hook.spec.argnames)
    impls = hook.get_hookimpls()
    if not impls:
        return ()
    if through_pluggy or has_wrappers(impls):

        def call(*values: Any) -> Any:
            with collecting(next((value for value in values if isinstance(value, Envelope)), None)):
                return hook(**dict(zip(arguments, values, strict=True)))

        return (call,)
    return tuple(project(impl, arguments) for impl in reversed(impls))


def has_wrappers(impls: list[HookImpl]) -> bool:
    """Whether one of ``impls`` is a wrapper, of the new style or the old."""
    return any(impl.wrapper or impl.hookwrapper for impl in impls)


def wrappers_of(hook: HookCaller) -> str:
    """Whom to blame for what guards don't contain: the names of the plugins that wrap the hook, or a monitor."""
    wrappers = [impl.plugin_name for impl in reversed(hook.get_hookimpls()) if impl.wrapper or impl.hookwrapper]
    return ", ".join(wrappers) or "(a monitor)"


def is_watched(pm: PluginManager, hook: HookCaller) -> bool:
    """Whether ``hook`` must be called through pluggy: it has wrappers, or all calls are monitored."""
    return pm.watched or has_wrappers(hook.get_hookimpls())


def blames(hook: HookCaller, functions: tuple[Function, ...]) -> tuple[tuple[Function, Blame], ...]:
    """Each function of a flattened hook with whom to blame when it fails."""
    impls = hook.get_hookimpls()[::-1]
    if len(functions) != len(impls) or has_wrappers(impls):
        return tuple((function, Blame(wrappers_of(hook), hook.name)) for function in functions)
    return tuple(
        (function, Blame(impl.plugin_name, hook.name)) for function, impl in zip(functions, impls, strict=True)
    )


@attrs.frozen
class Blame:
    """Whose function it is: the plugin's name, and the hook."""

    plugin: str
    hook: str


Router = tuple[Function, Blame]
"""What a frame is pushed into, under the lock, and whom to blame when it fails."""


def chain(pm: PluginManager, hook: str) -> list[tuple[str, Function]]:
    """A hook as a chain: for each implementation in call order, its plugin's name and a call of it alone."""
    caller = getattr(pm.hook, hook)
    impls = caller.get_hookimpls()
    plain = [impl for impl in reversed(impls) if not (impl.wrapper or impl.hookwrapper)]
    arguments = tuple(caller.spec.argnames)
    if not is_watched(pm, caller):
        return [(impl.plugin_name, project(impl, arguments)) for impl in plain]
    # Wrappers stand around each step; around none at all, they are the only step.
    wrappers = [impl for impl in impls if impl.wrapper or impl.hookwrapper]
    steps = [(impl, [impl, *wrappers]) for impl in plain] or [(impl, wrappers) for impl in wrappers[-1:]]
    return [(impl.plugin_name, _through(pm, hook, called, arguments)) for impl, called in steps]


def _through(pm: PluginManager, hook: str, impls: list[HookImpl], arguments: tuple[str, ...]) -> Function:
    """A call of these implementations and no others; not by plugin, since one may have several of them."""

    def call(*values: Any) -> Any:
        results = pm.call_those(hook, impls, dict(zip(arguments, values, strict=True)))
        return results[0] if results else None

    return call
