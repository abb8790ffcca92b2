"""The options of a stream that owns its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs

from crewbus._util import checked_seconds, is_count
from crewbus.exceptions import ConsumptionError
from crewbus.scopes import Durability

Slow = Literal["block", "coalesce", "drop", "fail"]
"""What happens to a frame when its consumer's buffer is full: the emitter waits (``block``), adjacent text is merged
(``coalesce``), the frame is dropped and counted (``drop``), or the stream fails (``fail``)."""


def checked_policy(bound: Any, slow: Any) -> None:
    """Raise `ConsumptionError` unless these are the bound and the policy of a buffer."""
    if not is_count(bound):
        raise ConsumptionError(f"a stream's bound is a number of frames, at least 1; got {bound!r}")
    if slow not in get_args(Slow):
        raise ConsumptionError(f"slow={slow!r}: choose one of {', '.join(get_args(Slow))}")


def checked_options(options: Any) -> StreamOptions:
    """``options``. Raises `ConsumptionError` unless they are `StreamOptions`."""
    if not isinstance(options, StreamOptions):
        raise ConsumptionError(
            f"options= takes StreamOptions(...), and arguments of the function that have its name go into a "
            f"functools.partial; got {options!r}"
        )
    if options.attach and (options.id is None or options.resume is not None):
        raise ConsumptionError("attach=True starts the run of an id, or follows it: give id=, and no resume=")
    checked_policy(options.bound, options.slow)
    checked_seconds(options.grace)
    return options


@attrs.frozen(kw_only=True)
class StreamOptions:
    """Options of `Bus.stream`, for the run and for its stream."""

    name: str | None = None
    """The run's name; by default the module and qualified name of the streamed function."""
    id: str | None = None
    """The run's id; by default a new one."""
    attach: bool = False
    """Whether the stream follows the recorded run of this ``id`` if there is one already, here or elsewhere, live or
    ended: an idempotency key. Of several that start it at once one calls the function. If that run has another name, or
    was started with other arguments, `RunIdInUseError` says so."""
    key: str | None = None
    """The run's key, if it is nested and others of its name run at the same time: see `Bus.run`."""
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
    claimed: int | None = None
    """The epoch with which the caller has claimed the run to resume: see `Bus.resume`."""
    bound: int = 1024
    """How many frames the buffer holds for the consumer."""
    slow: Slow = "block"
    """What happens to frames beyond that: the emitter waits (``block``), adjacent text is merged (``coalesce``),
    frames are dropped and counted (``drop``), or the stream fails (``fail``)."""
    grace: float = 5.0
    """How many seconds to wait for the work to end when the consumer leaves early."""


def run_arguments(options: StreamOptions) -> dict[str, Any]:
    """The options that `Bus.run` takes, but for the name."""
    return {name: getattr(options, name) for name in ("id", "key", "tags", "record", "durability")}
