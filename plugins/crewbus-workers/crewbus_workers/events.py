"""What the plugin records."""

from __future__ import annotations

from typing import Any, Final

import attrs

import crewbus

WORKFLOW_TAG: Final = "crewbus.workflow"
"""The tag that holds the label of a queued run's workflow, as in ``newsroom@2``."""
QUEUE_TAG: Final = "crewbus.queue"
KEY_TAG: Final = "crewbus.key"


@attrs.frozen
class Value:
    """An argument as JSON, and what decodes it: see `crewbus.Written`."""

    data: Any
    type: str | None = None
    version: int = 0


@crewbus.event(name="crewbus_workers.Enqueued")
class Enqueued:
    """A run was queued: the second event of its record, with the arguments of its workflow."""

    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = attrs.field(factory=dict)
    digest: str = ""
    """That of the arguments, by which `enqueue` sees whether another call is the same."""
    carried: dict[str, Any] = attrs.field(factory=dict)
    """The values of the ContextVars that travel with it, by their names."""
