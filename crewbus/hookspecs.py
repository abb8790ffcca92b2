"""Every hook of crewbus: when it is called, in which order, what an exception does, who implements it.

Implement those you need, with those of the arguments you need, and mark each with `crewbus.hookimpl`.
Unless a hook says otherwise:

- all implementations are called, the last registered first; ``tryfirst``, ``trylast`` and wrappers as in pluggy;
- one that raises is reported through `crewbus_plugin_error` with its plugin's name, distribution and version; its
  siblings still run, and whoever caused the call notices nothing;
- a BaseException that is no Exception goes on to the caller once the siblings have run;
- what a wrapper raises ends the call as in pluggy, and is then reported likewise.

Implementations are plain functions: an ``async def`` is refused at registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crewbus.plugins.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import cattrs

    from crewbus.bus.bus import Bus
    from crewbus.events import Envelope
    from crewbus.plugins.commands import Commands
    from crewbus.scopes.call import Call
    from crewbus.scopes.callbacks import Callbacks
    from crewbus.scopes.run import Run
    from crewbus.stores import Store


# The four that the core is about


@hookspec
def crewbus_emit(bus: Bus, run: Run | None, envelope: Envelope) -> None:
    """Observe an event, once it is stamped with its run and number. For exporters, metrics, consoles.

    Called in the emitter's thread and context, outside every lock, before the handlers; ``run`` is None
    for what is emitted outside any run. An observer may emit: what it emits is delivered first. A lock of your
    own must be re-entrant: a finaliser may emit while your thread is inside.
    """


@hookspec
def crewbus_record(bus: Bus, run: Run, envelope: Envelope) -> None:
    """Record an event of a run whose recording is armed; never called otherwise. For recorders.

    Called under the root run's lock, in the order of the numbers, before any stream or handler sees the event;
    it must not block and must not emit. What it needs of the event it must take before it returns.
    An exception is not contained: it reaches the emitter, the event goes no further, and its number is
    given to the next one unless another recorder had already taken it.
    """


@hookspec
def crewbus_stream_chunk(bus: Bus, run: Run, envelope: Envelope) -> None:
    """Route a stream's frame: each chunk, retraction and terminal event. For streams, and transports elsewhere.

    Called under the root run's lock, in the order of the numbers; it must not block and must not emit.
    The built-in router (the plugin ``run_scope``) is passed over while no stream is attached to the run's tree.
    """


@hookspec(firstresult=True)
def crewbus_callback_register(
    bus: Bus, scope: Call | Callbacks, callback: Callable[[Envelope], Any]
) -> Callable[[Envelope], Any] | None:
    """Take a callback that is given to a call or scope. For isolation; a plugin may wrap, veto or add.

    Called for each callback in the context of whoever gives it: when a `crewbus.Call` starts that was given it, or
    when the ``with`` of `crewbus.Callbacks` is entered; ``scope`` is that call, or those callbacks. The first result
    other than None is called in its place; where there is none, the callback itself. To wrap it, be a hook wrapper,
    so that what the others made of it is kept: ``return wrap((yield))``. ``scope.add(other)`` adds one of your own.
    An async callback may be wrapped in a plain function, if that returns what the callback returns: it is awaited.
    An exception is a veto: it reaches whoever gave the callback, and the call does not start. The built-in plugin
    ``callback_isolation`` answers last, with the callback bound to the context in which it was given.
    """


# Around them


@hookspec
def crewbus_configure(bus: Bus) -> None:
    """Begin to serve a bus: called once for each plugin, when the bus is complete or the plugin joins it later.

    An exception is a refusal: the plugin is unregistered, the handlers that it has subscribed are taken off, and it is
    skipped or refused as one that can't be loaded. The default bus is not there yet while it is made: use ``bus``.
    """


@hookspec(firstresult=True)
def crewbus_current_run(bus: Bus) -> Run | None:
    """Say which run of ``bus`` an emission belongs to that names none. For other notions of scope than ContextVars.

    Called for each `Bus.emit` and `Bus.chunk`, in the emitter's context: it must be fast. None leaves
    the answer to the next implementation. A finished run may be answered; the bus deals with it.
    """


@hookspec
def crewbus_run_start(bus: Bus, run: Run) -> None:
    """Prepare for a run: called when it is registered, before its `RunStarted` is emitted."""


@hookspec
def crewbus_run_finish(bus: Bus, run: Run) -> None:
    """Clean up after a run: called when its terminal event has been delivered.

    An observer may be told of the run's events later still, by a thread that was held up between numbering and telling.
    """


@hookspec
def crewbus_redact(bus: Bus, run: Run | None, event: Any) -> Any:
    """Replace an event by what may be seen of it, ahead of every sink: recorder, streams, observers, handlers.

    Return the event to go on with (a copy: the emitter's own object is not yours to change), or None to leave it.
    The implementations are a chain: each gets what the one before it returned. An exception is not
    contained, and nothing is emitted: the emitter gets a `RedactionError` that names the plugin.
    """


@hookspec(firstresult=True)
def crewbus_open_store(bus: Bus, url: str) -> Store | None:
    """Open the store that ``url`` names (``scheme:…``), or return None where the scheme is not yours.

    An exception reaches whoever armed recording.
    """


@hookspec
def crewbus_event_types(bus: Bus) -> Iterable[type] | None:
    """Name event classes that this plugin brings; the bus registers those that are not yet registered.

    Called once for each plugin, just before `crewbus_configure`; an exception is a refusal, as there.
    """


@hookspec
def crewbus_converter(bus: Bus, converter: cattrs.Converter) -> None:
    """Add hooks to the cattrs converter that writes and reads this bus's events, before it is first used.

    An exception reaches whoever records or reads first.
    """


@hookspec
def crewbus_cli_commands(commands: Commands) -> None:
    """Add commands to the command line ``crewbus``, by calling ``commands.add``. See `crewbus.Commands`.

    Called when the arguments name a command that is not built in, or ask for help.
    """


@hookspec
def crewbus_plugin_error(bus: Bus, failure: Any) -> None:
    """Learn of a fault that was contained: a `crewbus.Failure` of an observer, handler or callback.

    Called where it happened. It is logged to the logger ``crewbus`` in any case; an exception here is
    only logged.
    """


@hookspec
def crewbus_flush(bus: Bus, timeout: float | None) -> None:
    """Write out what you hold back, within ``timeout`` seconds (None: as long as it takes).

    Called by `Bus.flush`, `Bus.aflush` and `Bus.close`, when the handlers are done. An exception is not
    contained: it reaches whoever flushes, after the siblings ran.
    """


@hookspec
def crewbus_fork(bus: Bus) -> None:
    """Begin anew in a forked child: take new locks, forget queues and threads; what the parent began is the parent's.

    Called in the child, where only the thread that forked lives on, once the bus itself has begun anew.
    """


@hookspec
def crewbus_close(bus: Bus) -> None:
    """Release what you hold: called when the bus is closed and everything flushed, or when you are unregistered.

    A thread of your own must be a daemon: at the interpreter's exit a bus that nobody closed is closed once no other
    thread is left.
    """
