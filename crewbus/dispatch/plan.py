"""Plans: what happens to the events of one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from crewbus._util import identity_of
from crewbus.plugins import Function, HookOwner, OwnedFunction

if TYPE_CHECKING:
    from crewbus.dispatch.async_handlers import HomeLoop
    from crewbus.dispatch.background import Worker


class Plan:
    """What happens to the events of one class. Plans are made again when plugins or subscriptions change."""

    __slots__ = (
        "_homes", "frame", "handlers", "has_inline_listeners", "no_effect", "observers", "plain", "pushes", "queues",
        "redacted", "routers",
    )  # fmt: skip

    def __init__(
        self,
        handlers: Iterable[tuple[Callable[[Any], Any], HomeLoop]],
        queues: Iterable[Worker],
        *,
        frame: bool,
        observers: tuple[tuple[Function, HookOwner], ...],
        routers: tuple[OwnedFunction, ...],
        transported: bool,
        redacted: bool,
    ) -> None:
        self.frame = frame
        """Whether streams get it."""
        self.observers = observers
        inline = tuple(handlers)
        self.handlers = tuple(handler for handler, _ in inline)
        """The inline handlers."""
        self._homes = {identity_of(handler): home for handler, home in inline}
        self.queues = tuple(queues)
        """The workers of the background handlers."""
        self.pushes: tuple[OwnedFunction, ...] = tuple((one.push, HookOwner(one.name, "bus.on")) for one in self.queues)
        """What gets it in the order of the numbers, in a run or outside any."""
        self.routers: tuple[OwnedFunction, ...] = (*routers, *self.pushes) if frame else self.pushes
        """What gets it in the order of the numbers, in a run."""
        self.redacted = redacted
        self.plain = not (redacted or self.queues or (frame and transported))
        """Whether it may be delivered without an order while no stream is attached and nothing is recorded."""
        self.has_inline_listeners = bool(self.observers or self.handlers)
        self.no_effect = not (self.has_inline_listeners or self.queues or frame)
        """Whether nothing at all happens to it outside a run."""

    def home_of(self, handler: Callable[[Any], Any]) -> HomeLoop:
        """The loop on which an inline handler was subscribed."""
        return self._homes[identity_of(handler)]
