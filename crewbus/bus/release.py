"""Plugins write what they have buffered, and release what they hold: best-effort ones in limited time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from crewbus._util import Latch, deadline, raise_first, remaining, start_daemon
from crewbus.plugins import HookOwner, declares_best_effort, flatten, raising_deferred

if TYPE_CHECKING:
    from pluggy import HookCaller

    from crewbus.dispatch import Dispatcher, FaultReporter
    from crewbus.plugins import HookSubset, PluginManager

LIMIT: Final = 10.0
"""How many seconds all best-effort plugins have together, where nothing else limits them."""
_SHORT: Final = 0.1  # seconds

Named = tuple[str, "HookSubset"]
"""A plugin's name, and a call of its implementations of a hook."""


class PluginRelease:
    """Calls the hooks that flush and close plugins.

    Those of a best-effort plugin (``crewbus_best_effort = True``) are called last, each in a thread of its own, which
    is waited for as long as its share of the time that is left; what goes wrong is reported, and raised nowhere.
    """

    def __init__(self, bus: Dispatcher, plugins: PluginManager, faults: FaultReporter) -> None:
        self._bus = bus
        self._plugins = plugins
        self._faults = faults
        self._running: dict[str, Latch] = {}
        """The calls of best-effort plugins that have begun last, by the plugin's name."""

    def after_fork(self) -> None:
        """In a forked child: no call is in progress."""
        self._running = {}

    def flush(self, timeout: float | None) -> None:
        """Have the plugins write what they have buffered; the first error is raised when all have."""
        until, failures = deadline(timeout), list[BaseException]()
        hook = self._plugins.hook.crewbus_flush
        best_effort = self._best_effort(hook)
        for function in flatten(self._others(hook, best_effort), self._plugins.watched):
            try:
                function(self._bus, timeout)
            except BaseException as error:
                failures.append(error)
        self._call_in_time(hook.name, best_effort, until)
        raise_first(failures)

    def close(self, until: float | None) -> None:
        """Have the plugins release what they hold: the bus is closed."""
        hook = self._plugins.hook.crewbus_close
        best_effort = self._best_effort(hook)
        self._faults.notify_through(self._others(hook, best_effort))
        self._call_in_time(hook.name, best_effort, until)

    def _best_effort(self, hook: HookCaller) -> list[Named]:
        members = [
            (name, plugin)
            for name, plugin in self._plugins.list_name_plugin()
            if plugin is not None and declares_best_effort(plugin)
        ]
        calls = [(name, self._plugins.calls_of(plugin, hook.name)) for name, plugin in members]
        return [(name, call) for name, call in calls if call.get_hookimpls()]

    def _others(self, hook: HookCaller, best_effort: Sequence[Named]) -> HookSubset:
        names = {name for name, _ in best_effort}
        return self._plugins.subset(hook.name, [impl for impl in hook.get_hookimpls() if impl.plugin_name not in names])

    def _call_in_time(self, hook: str, calls: Sequence[Named], until: float | None) -> None:
        until = deadline(LIMIT) if until is None else until
        for index, (name, call) in enumerate(calls):
            seconds = max(_SHORT, (remaining(until) or 0.0) / (len(calls) - index))
            if not self._call(hook, name, call, seconds):
                error = TimeoutError(f"it is best-effort, and still runs after its share of the time, {seconds:.1f} s")
                self._report(hook, name, error)

    def _call(self, hook: str, name: str, call: HookSubset, seconds: float) -> bool:
        """Whether the plugin is done in time."""
        until, earlier = deadline(seconds), self._running.get(name)
        if earlier is not None and not earlier.wait(seconds):
            return False
        done = self._running[name] = Latch()
        values = {"timeout": seconds} if hook == "crewbus_flush" else {}

        def make() -> None:
            try:
                with raising_deferred():
                    call(bus=self._bus, **values)
            except BaseException as error:
                self._report(hook, name, error)
            finally:
                done.open()

        try:
            start_daemon(f"crewbus:{name}", make)
        except RuntimeError:  # the system has no thread left, or the interpreter is ending
            make()
        return done.wait(remaining(until))

    def _report(self, hook: str, name: str, error: BaseException) -> None:
        self._faults.report_culprit(HookOwner(name, hook), error, None)
