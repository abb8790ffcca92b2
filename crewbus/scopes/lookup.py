"""The current run and call, for users and plugins."""

from __future__ import annotations

from crewbus.scopes.call import Call
from crewbus.scopes.current import innermost, nearest, scope_var
from crewbus.scopes.run import Run


def current_run(bus: object = None) -> Run | None:
    """The innermost run in this context, of ``bus`` if one is named; None outside any. It may have ended."""
    here = innermost()
    while here is not None:
        if (here.found_by is bus if bus is not None else here.found_by is not None) and here.run is not None:
            return here.run  # type: ignore[no-any-return]
        here = here.outer
    return None


def current_call(bus: object = None) -> Call | None:
    """The call that an emission here belongs to, of ``bus`` if one is named; None outside any. It may have ended."""
    here = innermost() if bus is None else nearest(bus, innermost())
    return here.call if here is not None else None


# The same without a bus to choose, at the speed of C: what a plugin may offer for the hot path.
current_run.direct = scope_var.get  # type: ignore[attr-defined]
