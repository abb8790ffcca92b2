"""Flattened hooks: for each hook, in call order, plain functions that replace a call through pluggy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from crewbus.events import Envelope
from crewbus.plugins.isolation import Guard, raising_deferred
from crewbus.plugins.subset import HookSubset

if TYPE_CHECKING:
    from pluggy import HookCaller, HookImpl

    from crewbus.plugins.manager import PluginManager

Function = Callable[..., Any]


class Implementations(Protocol):
    """All or some of the implementations of a hook."""

    @property
    def name(self) -> str:
        """The hook's name."""

    def get_hookimpls(self) -> list[HookImpl]:
        """The implementations; the last one is called first."""


class HookOwner(NamedTuple):
    """Whose function it is: the plugin's name, and the hook that the function implements."""

    plugin: str
    hook: str


OwnedFunction = tuple[Function, HookOwner]


def project(impl: HookImpl, arguments: tuple[str, ...]) -> Function:
    """``impl``'s function without its guard; it takes ``arguments`` by position and uses those that it names."""
    function = impl.function.function if isinstance(impl.function, Guard) else impl.function
    if impl.argnames == arguments and not impl.kwargnames:
        return cast(Function, function)
    named = [f"{name}={name}" for name in impl.kwargnames if name in arguments]
    call = ", ".join([*impl.argnames, *named])
    # pluggy has checked these names against the hookspec.
    return cast(Function, eval(f"lambda {', '.join(arguments)}: function({call})", {"function": function}))


def flatten(hook: HookCaller | HookSubset, through_pluggy: bool) -> tuple[Function, ...]:
    """The functions that replace a call of ``hook``, in call order; they take the hookspec's arguments by position.

    If the hook has a wrapper, or ``through_pluggy`` says that calls are monitored, there is one function: a call
    through pluggy.
    """
    assert hook.spec is not None
    arguments = tuple(hook.spec.argnames)
    impls = hook.get_hookimpls()
    if not impls:
        return ()
    if through_pluggy or has_wrappers(impls):

        def call(*values: Any) -> Any:
            with raising_deferred(next((value for value in values if isinstance(value, Envelope)), None)):
                return hook(**dict(zip(arguments, values, strict=True)))

        return (call,)
    return tuple(project(impl, arguments) for impl in reversed(impls))


def has_wrappers(impls: Sequence[HookImpl]) -> bool:
    """Whether one of ``impls`` is a wrapper, new style or old."""
    return any(impl.wrapper or impl.hookwrapper for impl in impls)


def wrappers_of(hook: Implementations) -> str:
    """The names of the plugins that wrap the hook, or "(a monitor)": an exception that no guard contains is theirs."""
    wrappers = [impl.plugin_name for impl in reversed(hook.get_hookimpls()) if impl.wrapper or impl.hookwrapper]
    return ", ".join(wrappers) or "(a monitor)"


def is_watched(pm: PluginManager, hook: HookCaller) -> bool:
    """Whether ``hook`` must be called through pluggy: it has wrappers, or all calls are monitored."""
    return pm.watched or has_wrappers(hook.get_hookimpls())


def owned(hook: HookCaller, functions: tuple[Function, ...]) -> tuple[OwnedFunction, ...]:
    """Each function of a flattened hook with its owner."""
    impls = hook.get_hookimpls()[::-1]
    if len(functions) != len(impls) or has_wrappers(impls):
        return tuple((function, HookOwner(wrappers_of(hook), hook.name)) for function in functions)
    return tuple(
        (function, HookOwner(impl.plugin_name, hook.name)) for function, impl in zip(functions, impls, strict=True)
    )


def chain(pm: PluginManager, hook: str) -> list[tuple[str, Function]]:
    """A hook as a chain: for each implementation in call order, its plugin's name and a call of it alone."""
    caller: HookCaller = getattr(pm.hook, hook)
    assert caller.spec is not None
    arguments = tuple(caller.spec.argnames)
    impls = caller.get_hookimpls()
    plain = [impl for impl in reversed(impls) if not (impl.wrapper or impl.hookwrapper)]
    if not is_watched(pm, caller):
        return [(impl.plugin_name, project(impl, arguments)) for impl in plain]
    # Wrappers are called around each implementation; without any, they are the only one.
    wrappers = [impl for impl in impls if impl.wrapper or impl.hookwrapper]
    steps = [(impl, [impl, *wrappers]) for impl in plain] or [(impl, wrappers) for impl in wrappers[-1:]]
    return [(impl.plugin_name, _first_result(pm.subset(hook, called), arguments)) for impl, called in steps]


def _first_result(hook: HookSubset, arguments: tuple[str, ...]) -> Function:
    def call(*values: Any) -> Any:
        results = hook(**dict(zip(arguments, values, strict=True)))
        return results[0] if results else None

    return call
