"""Registries of types: which classes may be recorded, and how they are encoded and decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from crewbus._util import module_name
from crewbus.exceptions import EventTypeError, UnregisteredEventError

Structure = Callable[[Any], Any]
Unstructure = Callable[[Any], Any]
Upgrades = Mapping[int, Callable[[Any], Any]]

NO_UPGRADES: Final[Upgrades] = MappingProxyType({})


@attrs.frozen(eq=False)
class EventType:
    """A registered type: the class, and how its instances are encoded and decoded. Immutable."""

    cls: type
    name: str
    version: int = 1
    structure: Structure | None = None
    unstructure: Unstructure | None = None
    upgrades: Upgrades = NO_UPGRADES
    """For each older version, the function that turns its JSON value into that of the next version."""
    landmark: bool = False
    """Whether a resume reads the events of this type: see ``crewbus.events.landmarks``."""
    recognised_by: tuple[str, ...] | None = None
    """The fields by which a resumed run recognises a repeated event; None: all of them."""

    def __repr__(self) -> str:
        return f"<EventType {self.name!r} version {self.version}: {qualified(self.cls)}>"

    def upgraded(self, value: Any, version: int) -> Any:
        """A JSON value of an older version, as one of this version."""
        for older in sorted(self.upgrades):
            if older >= version:
                value = self.upgrades[older](value)
        return value


class Family:
    """The registration of a class together with its subclasses."""

    def __init__(
        self,
        version: int,
        structure: Callable[[Any, type], Any] | None,
        unstructure: Unstructure | None,
        upgrades: Upgrades,
        recognised_by: tuple[str, ...] | None,
    ) -> None:
        self.version = version
        self.structure = structure
        self.unstructure = unstructure
        self.upgrades = upgrades
        self.recognised_by = recognised_by

    def member(self, cls: type) -> EventType:
        """The registration of ``cls``, a subclass."""
        structure = self.structure_for(cls)
        name = qualified(cls)
        return EventType(cls, name, self.version, structure, self.unstructure, self.upgrades, False, self.recognised_by)

    def structure_for(self, cls: type) -> Structure | None:
        """The function that decodes instances of ``cls``, a member of the family."""
        structure = self.structure
        return None if structure is None else lambda data: structure(data, cls)


class Registry:
    """The registered types of one kind, by class and by name."""

    def __init__(self, noun: str, advice: str) -> None:
        self._noun = noun
        self._advice = advice
        self._families: dict[type, Family] = {}
        self._by_class: dict[type, EventType] = {}
        self._by_name: dict[str, EventType] = {}

    def register(
        self,
        cls: type,
        name: str | None,
        version: int,
        structure: Callable[..., Any] | None,
        unstructure: Unstructure | None,
        subclasses: bool,
        upgrades: Upgrades | None,
        landmark: bool = False,
        recognised_by: Iterable[str] | None = None,
    ) -> None:
        """Register ``cls``; raises `EventTypeError` if an argument is invalid, or the name is taken."""
        if not isinstance(cls, type):
            raise EventTypeError(f"{self._noun} must be a class; got {cls!r}, an instance of {type(cls).__name__}")
        if (structure is None) != (unstructure is None):
            raise EventTypeError(f"{qualified(cls)}: give both structure= and unstructure=, or neither")
        if version < 1:
            raise EventTypeError(f"{qualified(cls)}: versions count from 1; got {version}")
        for older in upgrades or ():
            if not 1 <= older < version:
                raise EventTypeError(f"{qualified(cls)}: upgrades are from versions 1 to {version - 1}; got {older}")
        name = name or qualified(cls)
        known = self._by_name.get(name)
        if known is not None and known.cls is not cls and qualified(known.cls) != qualified(cls):
            raise EventTypeError(
                f"the name {name!r} belongs to {qualified(known.cls)}; give {qualified(cls)} another name="
            )
        upgrades = upgrades or NO_UPGRADES
        fields = tuple(recognised_by) if recognised_by is not None else None
        if subclasses:
            self._families[cls] = Family(version, structure, unstructure, upgrades, fields)
            structure = self._families[cls].structure_for(cls)
        self._add(EventType(cls, name, version, structure, unstructure, upgrades, landmark, fields))

    def _add(self, registered: EventType) -> EventType:
        self._by_class[registered.cls] = self._by_name[registered.name] = registered
        return registered

    def discard(self, cls: type) -> None:
        """Remove the registration of ``cls``, if there is one."""
        known = self._by_class.pop(cls, None)
        if known is not None and self._by_name.get(known.name) is known:
            del self._by_name[known.name]

    def find_class(self, cls: type) -> EventType | None:
        """The registration of ``cls``, or None."""
        known = self._by_class.get(cls)
        if known is None:
            for base in cls.__mro__:
                family = self._families.get(base)
                if family is not None:
                    return self._add(family.member(cls))
        return known

    def of(self, cls: type) -> EventType:
        """The registration of ``cls``; raises `UnregisteredEventError` if there is none."""
        try:
            return self._by_class[cls]
        except KeyError:
            known = self.find_class(cls)
        if known is None:
            if issubclass(cls, type):
                raise UnregisteredEventError("a class was given where an event is expected: make an instance of it")
            raise UnregisteredEventError(
                f"{qualified(cls)} is not {self._noun}: {self._advice.format(name=cls.__name__)}"
            ) from None
        return known

    def find(self, name: str) -> EventType | None:
        """The type registered under ``name``, or None."""
        known = self._by_name.get(name)
        if known is None:
            named = [cls for base in list(self._families) for cls in _descendants(base) if qualified(cls) == name]
            # attrs replaces a class by one with slots, which is the last of the two.
            known = self.of(named[-1]) if named else None
        return known

    def __iter__(self) -> Iterator[EventType]:
        return iter(list(self._by_name.values()))


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        yield child
        yield from _descendants(child)


def qualified(cls: type) -> str:
    """The module and qualified name of a class."""
    return f"{module_name(cls.__module__)}.{cls.__qualname__}"
