"""Required plugins: what a requirement says, and what is wrong where it is not met."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, Self

import attrs

from crewbus.exceptions import PluginError
from crewbus.plugins.versions import Version

EXAMPLE: Final = "'sqlite', 'sqlite>=0.1' or 'sqlite>=0.1,<2'"
"""How requirements look."""

_REQUIREMENT: Final = re.compile(r"(?P<name>[^\s,;<>=!~]+)\s*(?P<specifiers>[<>=!~].*)?", re.DOTALL)
_CLAUSE: Final = re.compile(r"(?P<sign>~=|==|!=|<=|>=|<|>)\s*(?P<version>[^\s<>=~]+?)(?P<prefix>\.\*)?")


@attrs.frozen
class Clause:
    """One comparison with a version: ``>=0.1``, ``==1.2.*``."""

    sign: str
    version: Version
    prefix: bool = False
    """Whether it ends in ``.*``."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The comparison that ``text`` spells; None where PEP 440 knows none such."""
        found = _CLAUSE.fullmatch(text.strip())
        version = Version.parse(found["version"]) if found is not None else None
        if found is None or version is None:
            return None
        clause = cls(found["sign"], version, found["prefix"] is not None)
        return clause if clause._makes_sense() else None

    def _makes_sense(self) -> bool:
        equality = self.sign in ("==", "!=")
        if self.prefix:
            return equality and self.version.bare
        return (equality or not self.version.local) and (self.sign != "~=" or len(self.version.release) > 1)

    def admits(self, version: Version) -> bool:
        """Whether ``version`` meets it; a pre-release does like any other."""
        return _SIGNS[self.sign](version, self)


def _equal(version: Version, clause: Clause) -> bool:
    if clause.prefix:
        return version.begins_with(clause.version.release, clause.version.epoch)
    return (version if clause.version.local else version.public) == clause.version


def _less(version: Version, clause: Clause) -> bool:
    """Less, and no earlier form of the bound itself, unless the bound is one."""
    bound = clause.version
    return version < (bound if bound.early else attrs.evolve(bound, dev=0))


def _more(version: Version, clause: Clause) -> bool:
    """More, and neither a local version of the bound itself, nor a later one, unless the bound is of that kind."""
    bound = clause.version
    plain = bound.dev is None and bound.post is None
    same = attrs.evolve(version.public, post=None, dev=None) if plain else version.public
    return version > bound and same != bound


def _compatible(version: Version, clause: Clause) -> bool:
    bound = clause.version
    return version >= bound and version.begins_with(bound.release[:-1], bound.epoch)


_SIGNS: Final[dict[str, Callable[[Version, Clause], bool]]] = {
    "==": _equal,
    "!=": lambda version, clause: not _equal(version, clause),
    "<=": lambda version, clause: version.public <= clause.version,
    ">=": lambda version, clause: version >= clause.version,
    "<": _less,
    ">": _more,
    "~=": _compatible,
}


@attrs.frozen
class Requirement:
    """A plugin that must be there, in one of the versions that its clauses admit."""

    name: str
    clauses: tuple[Clause, ...]
    text: str
    """As it was written."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The requirement that ``text`` spells; raises `PluginError` that shows how one looks."""
        found = _REQUIREMENT.fullmatch(text.strip())
        specifiers = (found["specifiers"] or "").split(",") if found is not None else []
        clauses = [Clause.parse(part) for part in specifiers if part.strip()]
        good = tuple(clause for clause in clauses if clause is not None)
        if found is None or len(good) < len(clauses):
            raise PluginError(f"a required plugin is written as {EXAMPLE}, with versions as in PEP 440; got {text!r}")
        return cls(found["name"], good, text.strip())

    def complaint(self, version: str | None) -> str | None:
        """What is wrong with this version of the plugin, None being one that is not known; None if nothing is."""
        if not self.clauses:
            return None
        if version is None:
            return "is of no known version: no distribution brings it, and its module has no __version__"
        known = Version.parse(version)
        if known is None:
            return f"is of version {version!r}, which is none of PEP 440"
        return None if all(clause.admits(known) for clause in self.clauses) else f"is of version {version}"


def requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """The requirements that are written so, one text being one of them; raises `PluginError`."""
    return tuple(Requirement.parse(text) for text in ([texts] if isinstance(texts, str) else texts))
