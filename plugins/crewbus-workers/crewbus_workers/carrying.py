"""The context capsule: the values of chosen ContextVars travel with a queued run, in its record."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from crewbus import InputError, UnserializableError

if TYPE_CHECKING:
    from crewbus import Bus

log: Final = logging.getLogger("crewbus.workers")

LARGEST: Final = 8 * 1024
"""The most bytes of JSON that a run carries: each is written with each run, and read each time that it begins."""

Variables = tuple[ContextVar[Any], ...]


def checked_variables(carry: Iterable[ContextVar[Any]], whose: str) -> Variables:
    """The variables to carry; raises `InputError` for what is none, and for two of the same name."""
    if isinstance(carry, str | Mapping) or not isinstance(carry, Iterable):
        raise InputError(f"{whose}: carry= takes ContextVars; got {carry!r}")
    found = dict[str, ContextVar[Any]]()
    for variable in carry:
        if not isinstance(variable, ContextVar):
            raise InputError(f"{whose}: carry= takes ContextVars; got {variable!r}")
        if found.setdefault(variable.name, variable) is not variable:
            raise InputError(f"{whose}: two ContextVars to carry are named {variable.name!r}: a record names them so")
    return tuple(found.values())


def pack(bus: Bus, label: str, carry: Variables) -> dict[str, Any]:
    """What a run of a workflow carries that is queued here and now: by name, the values of the variables that are set.

    Raises `UnserializableError` for a value that is not plain JSON, and `InputError` if they are too large together.
    """
    context, found, sizes = copy_context(), dict[str, Any](), dict[str, int]()
    for variable in _variables(bus, label, carry):
        if variable in context:
            found[variable.name], sizes[variable.name] = _as_json(bus, label, variable.name, context[variable])
    if sum(sizes.values()) > LARGEST:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InputError(
            f"workflow {label}: the ContextVars that it carries take {sum(sizes.values())} bytes of JSON, and "
            f"{LARGEST} are allowed; the largest is {largest!r} with {sizes[largest]}: pass it as an argument, "
            "or carry a key to look it up by"
        )
    return found


def unpack(
    bus: Bus, label: str, carry: Variables, run_id: str, carried: Mapping[str, Any]
) -> list[tuple[ContextVar[Any], Any]]:
    """The variables to set before a run continues here, with their values; one that is not known here is logged."""
    known = {variable.name: variable for variable in _variables(bus, label, carry)}
    for name in carried.keys() - known.keys():
        log.warning("%s %s carries the ContextVar %r, which is not carried here", label, run_id, name)
    return [(known[name], value) for name, value in carried.items() if name in known]


def _variables(bus: Bus, label: str, carry: Variables) -> Variables:
    """Those of the workflow, and those of the plugins."""
    found = list[ContextVar[Any]](carry)
    caller = getattr(bus.plugins.hook, "crewbus_carry", None)  # not there: the plugin is not loaded, nor another one
    for variables in caller(bus=bus) if caller is not None else ():
        found += [variable for variable in checked_variables(variables, "crewbus_carry") if variable not in found]
    return checked_variables(found, f"workflow {label}")


def _as_json(bus: Bus, label: str, name: str, value: Any) -> tuple[Any, int]:
    what = f"the ContextVar {name!r} that {label} carries"
    data, type_, _ = bus.recording.write(value, Any, what)
    if type_ is not None:
        raise UnserializableError(f"{what} is a {type(value).__name__}: only plain JSON can be carried")
    try:
        return data, len(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise UnserializableError(f"{what} is not plain JSON: {error}") from error
