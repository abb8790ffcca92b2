"""Required plugins: parse a requirement, and check a plugin's version against it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from crewbus.exceptions import PluginError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

EXAMPLE: Final = "'sqlite', 'sqlite>=0.1' or 'sqlite>=0.1,<2'"
"""Requirements, as they are shown in error messages."""

# packaging's own Requirement rejects a name such as "module:attribute".
_REQUIREMENT: Final = re.compile(r"(?P<name>[^\s,;<>=!~]+)\s*(?P<specifiers>[<>=!~].*)?", re.DOTALL)


class Requirement(NamedTuple):
    """A plugin that must be loaded, in a version that its specifiers allow."""

    name: str
    specifiers: SpecifierSet | None
    """None allows every version, and a plugin without one."""
    text: str
    """The requirement as it was written."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``text``; raises `PluginError`, which shows how a requirement is written."""
        found = _REQUIREMENT.fullmatch(text.strip())
        if found is None:
            raise _malformed(text)
        return cls(found["name"], _parse_specifiers(found["specifiers"], text), text.strip())

    def problem(self, version: str | None) -> str | None:
        """Say why a plugin of this version does not meet the requirement; None if it does."""
        if self.specifiers is None:
            return None
        if version is None:
            return "is of no known version: no distribution brings it, and its module has no __version__"
        from packaging.version import InvalidVersion, Version

        try:
            known = Version(version)
        except InvalidVersion:
            return f"is of version {version!r}, which PEP 440 does not allow"
        return None if self.specifiers.contains(known, prereleases=True) else f"is of version {version}"


def _parse_specifiers(specifiers: str | None, text: str) -> SpecifierSet | None:
    if specifiers is None:
        return None
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # most buses require no version

    try:
        return SpecifierSet(specifiers)
    except InvalidSpecifier as error:
        raise _malformed(text) from error


def _malformed(text: str) -> PluginError:
    return PluginError(f"a required plugin is written as {EXAMPLE}, with versions as in PEP 440; got {text!r}")


def parse_requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Parse these requirements; a single text is one requirement. Raises `PluginError`."""
    return tuple(Requirement.parse(text) for text in ([texts] if isinstance(texts, str) else texts))
