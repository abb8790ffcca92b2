"""Descriptions: how a run or call is called, and what is known of it, from what langchain tells of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from crewbus_langchain.plain import as_plain

HIDDEN: Final = "langsmith:hidden"
"""The tag of runs that langchain's own tools don't show."""
TYPE: Final = "langchain.type"
"""The tag of a run that says what kind of runnable it is; a run that is no other's part always has it."""
_BRANCH: Final = "map:key:"
"""How a tag begins that the branches of a parallel chain have."""

_REQUEST: Final = {
    "provider": "ls_provider",
    "model": "ls_model_name",
    "temperature": "ls_temperature",
    "max_tokens": "ls_max_tokens",
}
"""The attributes of a call, and langchain's names."""


def name_of(serialized: Mapping[str, Any] | None, known: Mapping[str, Any]) -> str:
    """The name of a run."""
    found = known.get("name")
    if found is None and serialized is not None:
        path = serialized.get("id") or ["langchain"]
        found = serialized.get("name") or path[-1]
    return str(found) if found else "langchain"


class Node(NamedTuple):
    """A node or task of a graph."""

    name: str
    step: Any
    path: Any
    namespace: str
    """What identifies its execution, and that of what is in it."""


def node_of(metadata: Mapping[str, Any] | None, namespace_around: str | None) -> Node | None:
    """The node or task that a run is of; None: of none.

    What runs in a node has the metadata of the node, so the node is where the namespace changes.
    """
    found = (metadata or {}).get("langgraph_checkpoint_ns")
    if metadata is None or not found or found == namespace_around:
        return None
    return Node(
        str(metadata.get("langgraph_node")), metadata.get("langgraph_step"), metadata.get("langgraph_path"), str(found)
    )


def tags_of(node: Node | None, known: Mapping[str, Any]) -> dict[str, str] | None:
    """The tags of a run: what kind of runnable it is, or which node of a graph; None: it is a plain chain."""
    if node is not None:
        return {"langgraph.node": node.name, "langgraph.step": str(node.step)}
    kind = known.get("run_type")
    return {TYPE: str(kind)} if kind and kind != "chain" else None


def key_of(node: Node | None, tags: Sequence[str] | None) -> str | None:
    """What distinguishes a run from others that go on beside it, in each process alike; None: nothing does."""
    if node is not None:
        return "/".join((str(node.step), *_flat(node.path)))
    return next((tag.removeprefix(_BRANCH) or None for tag in tags or () if tag.startswith(_BRANCH)), None)


def _flat(path: Any) -> Iterator[str]:
    if isinstance(path, tuple | list):
        for part in path:
            yield from _flat(part)
    elif path is not None and not isinstance(path, bool):
        yield str(path).removeprefix("__pregel_")


def model_name(metadata: Mapping[str, Any] | None, known: Mapping[str, Any]) -> str | None:
    """The model that is called, as the provider names it; None: nothing says so."""
    asked = known.get("invocation_params")
    asked = asked if isinstance(asked, Mapping) else {}
    found = (metadata or {}).get("ls_model_name") or asked.get("model") or asked.get("model_name")
    return found if isinstance(found, str) and found else None


def model_attributes(metadata: Mapping[str, Any] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a call of a model."""
    described = metadata or {}
    found = {ours: described.get(theirs) for ours, theirs in _REQUEST.items()}
    found["model"] = model_name(metadata, known)
    asked = known.get("invocation_params")
    if isinstance(asked, Mapping):
        found |= {name: asked.get(name) for name in ("top_p", "seed")}
    return {name: as_plain(value) for name, value in found.items() if value is not None}
