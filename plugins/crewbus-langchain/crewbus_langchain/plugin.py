"""The plugin, and installation without it."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec

from crewbus import Bus, default_bus, hookimpl
from crewbus.integration import Integration
from crewbus_langchain.asking import Durable, ask
from crewbus_langchain.integration import integration, langgraph


@integration.when_imported
def _patch(undo: ExitStack) -> None:
    from crewbus_langchain.patches import apply_patches  # imports langchain-core

    apply_patches(undo)


@langgraph.when_imported
def _patch_langgraph(undo: ExitStack) -> None:
    from crewbus_langchain.graphs import apply_patches  # imports LangGraph

    apply_patches(undo)


def _integrations() -> tuple[Integration, ...]:
    return (integration, langgraph) if find_spec("langgraph") is not None else (integration,)


def install(bus: Bus | None = None, *, durable: Durable = False) -> None:
    """Report the work of LangChain and LangGraph to ``bus``, by default the process's default bus. Idempotent.

    If several buses are served, work belongs to the bus of the call, the callbacks or the run in scope; outside any of
    them, to the bus of the latest ``install()``. Neither library is imported: each is attached to once the application
    uses it. Raises `crewbus.PluginError` if the installed version of either is not supported.

    ``durable``: whether, in a recorded run, the nodes and tasks of graphs are steps, whose results a resume takes from
    the record. If they write instances of your own classes to the graph's state, name these: ``durable=[Plan, Draft]``.
    """
    served = bus if bus is not None else default_bus()
    for one in _integrations():
        one.install(served)
    ask(served, durable)


def uninstall(bus: Bus | None = None) -> None:
    """Stop reporting to ``bus``, by default to every bus; after the last one the libraries are as they were.

    What is in progress is reported until it ends.
    """
    for one in (integration, langgraph):
        one.uninstall(bus)


class LangchainPlugin:
    """The plugin of the entry point ``langchain``: serves each bus that loads it, until that bus closes.

    To set ``durable``, which `install` describes, give the bus one:
    ``plugins=[("langchain", LangchainPlugin(durable=True))]``.
    """

    def __init__(self, durable: Durable = False) -> None:
        self._durable = durable

    @hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Serve the bus."""
        for one in _integrations():
            one.serve(bus)
        if self._durable is not False:
            ask(bus, self._durable)

    @hookimpl
    def crewbus_close(self, bus: Bus) -> None:
        """Stop serving the bus."""
        uninstall(bus)
