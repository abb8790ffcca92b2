"""The options of a stream that owns its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from crewbus.scopes import Durability

Slow = Literal["block", "coalesce", "drop", "fail"]
"""What happens to a frame when its consumer's buffer is full: the emitter waits (``block``), adjacent text is merged
(``coalesce``), the frame is dropped and counted (``drop``), or the stream fails (``fail``)."""


@attrs.frozen(kw_only=True)
class StreamOptions:
    """Options of `Bus.stream`, for the run and for its stream."""

    name: str | None = None
    """The run's name; by default the module and qualified name of the streamed function."""
    id: str | None = None
    """The run's id; by default a new one."""
    tags: Mapping[str, str] | None = None
    """The run's tags."""
    record: bool | None = None
    """Whether to arm this run's recording; None: as on the bus."""
    durability: Durability | None = None
    """When an emission of the recorded run returns: see `Bus.enable_recording`; None: as on the bus."""
    resume: str | None = None
    """The id of a recorded run to resume instead of starting a new one: see `Bus.resume`."""
    at: str | None = None
    """The checkpoint to resume from; None: the end of the record."""
    bound: int = 1024
    """How many frames the buffer holds for the consumer."""
    slow: Slow = "block"
    """What happens to frames beyond that: the emitter waits (``block``), adjacent text is merged (``coalesce``),
    frames are dropped and counted (``drop``), or the stream fails (``fail``)."""
    grace: float = 5.0
    """How many seconds to wait for the work to end when the consumer leaves early."""
