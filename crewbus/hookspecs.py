"""Every hook of crewbus: when it is called, in which order, what an exception does, and who should implement it.

Implement the hooks that you need, with the arguments that you need, and mark each function with `crewbus.hookimpl`.
Unless a hook says otherwise:

- All implementations are called, the last registered one first. ``tryfirst``, ``trylast`` and wrappers work as in
  pluggy.
- An exception is contained: it is reported through `crewbus_plugin_error` with the plugin's name, distribution and
  version, the other implementations still run, and the caller is not affected.
- A BaseException that is not an Exception reaches the caller after the other implementations have run.
- An exception of a wrapper ends the call, as in pluggy, and is then reported.

Implementations are plain functions: an ``async def`` is refused at registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crewbus.plugins import hookspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    import cattrs

    from crewbus.bus import Bus
    from crewbus.events import Envelope
    from crewbus.plugins import Commands
    from crewbus.scopes import Call, Callbacks, Run, Scope
    from crewbus.stores import Store


# The four core hooks


@hookspec
def crewbus_emit(bus: Bus, run: Run | None, envelope: Envelope) -> None:
    """Observe an event after it has its run and number. For exporters, metrics, consoles.

    Called in the emitter's thread and context, outside every lock, before the handlers. ``run`` is None for an event
    that is emitted outside any run. An observer may emit; those events are delivered first. A lock of the plugin must
    be re-entrant, because a finaliser may emit while the thread holds it.
    """


@hookspec
def crewbus_record(bus: Bus, run: Run, envelope: Envelope) -> None:
    """Record an event of a run whose recording is armed; never called otherwise. For recorders.

    Called under the root run's lock, in the order of the numbers, before any stream or handler gets the event.
    It must not block and must not emit. The event may change after it returns, so it must copy or encode what it
    needs. An exception is not contained: it reaches the emitter, the event is not delivered, and the next event gets
    its number, unless another recorder had already recorded it.
    """


@hookspec
def crewbus_stream_chunk(bus: Bus, run: Run, envelope: Envelope) -> None:
    """Route a frame: each chunk, retraction and terminal event. For streams, and transports to other processes.

    Called under the root run's lock, in the order of the numbers; it must not block and must not emit.
    An implementation whose function has the attribute ``attached_streams_only = True`` is skipped while no stream
    is attached to the run's tree, so that it costs nothing then. The built-in router, ``run_scope``, has it.
    """


@hookspec(firstresult=True)
def crewbus_callback_register(
    bus: Bus, scope: Call | Callbacks, callback: Callable[[Envelope], Any]
) -> Callable[[Envelope], Any] | None:
    """Wrap, veto or add a callback when it is registered for a call or scope. For isolation.

    Called for each callback in the context of the code that passes it: when its `crewbus.Call` starts, or when the
    ``with`` of its `crewbus.Callbacks` is entered; ``scope`` is that call, or those callbacks. The bus calls the first
    result other than None instead of the callback; if every result is None, it calls the callback itself. To wrap the
    callback, write a hook wrapper, which keeps what other plugins did: ``return wrap((yield))``. ``scope.add(other)``
    adds a callback. A plain function may wrap an async callback if it returns what the callback returns, which is
    awaited. An exception is a veto: it reaches the code that passed the callback, and the call does not start. The
    built-in plugin ``callback_isolation`` is called last, and returns the callback bound to its context.
    """


# Further hooks


@hookspec
def crewbus_scope(bus: Bus, scope: Scope) -> AbstractContextManager[object] | None:
    """Be around work: return a context manager, or reject the work. For tracing, logging context, guards, rate limits.

    Called for each run, call, attempt and step that is about to start, and for a run that is entered once more
    (`Run.scope`): ``scope.scope_kind`` says which, and ``scope.name``, ``scope.run`` and ``scope.parent_id`` what and
    where. Of a resumed run, `Run.resumed` and `Run.forked_from` say what it continues. A step whose outcome is recalled
    from the record does not start, so it is not asked about.

    The context manager is entered where the scope's code runs, once the scope has started, so that ``scope.start_id``
    and ``scope.replayed`` are known; and left before the scope ends, with the exception that ends its code. What it
    returns does not matter: it swallows nothing. The last registered plugin's is the outermost. ContextVars that it
    sets are set for exactly that code and what the code starts: it is entered in a copy of the code's context, whose
    changes the code gets, and left in that same copy, wherever the scope is left. So it can always reset what it has
    set, also where a generator is closed in another context. It is not entered for what is never current: a call, for
    example, that is begun with ``call.start()`` instead of ``with``.

    `RejectedError`, or a subclass, rejects the work and reaches the code that wanted to begin. If the hook itself
    raises it, nothing of the scope is emitted; if the context manager does as it is entered, the scope ends as failed.
    Any other exception is contained. If the plugin is required (by ``requires=`` of the bus, or by its own attribute
    ``crewbus_required = True``), the work is then rejected, with a `RejectedError` that names the plugin.
    """


@hookspec
def crewbus_configure(bus: Bus) -> None:
    """Set up the plugin for a bus: called once for each plugin, when the bus is complete or the plugin joins it later.

    An exception is a refusal: the plugin and the handlers that it has subscribed are removed, and it is skipped or
    refused as a plugin that can't be loaded. The default bus does not exist yet while it is being made: use ``bus``.
    """


@hookspec(firstresult=True)
def crewbus_current_run(bus: Bus) -> Run | None:
    """Return the run of ``bus`` that an emission belongs to if it names none. For scopes other than ContextVars.

    Called for each `Bus.emit` and `Bus.chunk`, in the emitter's context: it must be fast. None leaves
    the answer to the next implementation. The run may have finished; the bus handles that. An implementation
    may offer a faster function of no arguments as its attribute ``direct``, which returns the innermost scope of any
    bus, or None; it is called instead while no other plugin implements the hook.
    """


@hookspec
def crewbus_run_start(bus: Bus, run: Run) -> None:
    """Prepare for a run: called when it is registered, before its `RunStarted` is emitted.

    The run has not started, so what is emitted in it here is outside any run: emit in `crewbus_emit`, when you observe
    `RunStarted`.
    """


@hookspec
def crewbus_run_finish(bus: Bus, run: Run) -> None:
    """Clean up after a run: called when its terminal event has been delivered.

    An observer may still get an event of the run later, from a thread that had numbered the event and not delivered it.
    """


@hookspec
def crewbus_redact(bus: Bus, run: Run | None, event: Any) -> Any:
    """Redact an event before any recorder, stream, observer or handler gets it.

    Return a changed copy of the event (do not change the emitter's object), or None to leave it as it is.
    The implementations are a chain: each gets what the previous one returned. An exception is not
    contained, and nothing is emitted: the emitter gets a `RedactionError` that names the plugin.
    """


@hookspec(firstresult=True)
def crewbus_open_store(bus: Bus, url: str) -> Store | None:
    """Open the store that ``url`` names (``scheme:…``), or return None if the plugin does not know the scheme.

    An exception reaches the code that enables recording.
    """


@hookspec
def crewbus_event_types(bus: Bus) -> Iterable[type] | None:
    """Return the plugin's event classes; the bus registers those that are not registered yet.

    Called once for each plugin, just before `crewbus_configure`. An exception is a refusal, as it is there.
    """


@hookspec
def crewbus_converter(bus: Bus, converter: cattrs.Converter) -> None:
    """Add hooks to the cattrs converter that writes and reads this bus's events, before it is first used.

    An exception reaches the code that records or reads first.
    """


@hookspec
def crewbus_cli_commands(commands: Commands) -> None:
    """Add commands to the command line ``crewbus``, by calling ``commands.add``. See `crewbus.Commands`.

    Called when the arguments name a command that is not built in, or ask for help.
    """


@hookspec
def crewbus_plugin_error(bus: Bus, failure: Any) -> None:
    """Called when an observer, handler or callback raised and the bus contained the exception.

    ``failure`` is a `crewbus.Failure`. Called in the thread where it happened, after it was logged to the logger
    ``crewbus``. An exception of the implementation is only logged.
    """


@hookspec
def crewbus_flush(bus: Bus, timeout: float | None) -> None:
    """Write everything that the plugin has buffered, within ``timeout`` seconds (None: no limit).

    Called by `Bus.flush`, `Bus.aflush` and `Bus.close`, when the handlers are done. An exception is not contained: it
    reaches the caller after the other implementations have run.

    A plugin with the attribute ``crewbus_best_effort = True`` is called after all others, in a thread of its own. Its
    ``timeout`` is its share of the time that is left; after that the bus goes on without it. The bus reports that, and
    any exception of the plugin, and raises neither. This is for exporters, whose receiver may be down.
    """


@hookspec
def crewbus_after_fork(bus: Bus) -> None:
    """Reset the plugin in a forked child: make new locks, forget queues and threads. The parent's work is the parent's.

    Called in the child, where only the thread that forked survives, after the bus itself was reset.
    """


@hookspec
def crewbus_close(bus: Bus) -> None:
    """Release the plugin's resources: called when the bus is closed, after it was flushed, or the plugin unregistered.

    A thread of the plugin must be a daemon: at the interpreter's exit an open bus is closed only after all other
    threads have ended. A best-effort plugin is called last, in a thread of its own, for its share of the time.
    """
