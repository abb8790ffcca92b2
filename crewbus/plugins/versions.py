"""Versions as PEP 440 defines them: read, ordered, and cut to a prefix."""

from __future__ import annotations

import functools
import re
from itertools import dropwhile
from typing import Any, Final, Self

import attrs

_PATTERN: Final = re.compile(
    r"""
    v?
    (?:(?P<epoch>[0-9]+)!)?
    (?P<release>[0-9]+(?:\.[0-9]+)*)
    (?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>[0-9]+)?)?
    (?:-(?P<bare_post>[0-9]+)|(?P<post>[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>[0-9]+)?))?
    (?P<dev>[-_.]?dev[-_.]?(?P<dev_number>[0-9]+)?)?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_SPELLINGS: Final = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_LOWEST: Final = (-1,)
_HIGHEST: Final = (9,)


@functools.total_ordering
@attrs.frozen(eq=False)
class Version:
    """A version; those that PEP 440 holds for equal, as 1.0 and 1.0.0, are equal here."""

    epoch: int
    release: tuple[int, ...]
    pre: tuple[str, int] | None = None
    """"a", "b" or "rc", and its number."""
    post: int | None = None
    dev: int | None = None
    local: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The version that ``text`` spells, in any way that PEP 440 allows; None if it spells none."""
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            return None
        part = found.groupdict()
        pre = (part["pre"] or "").lower()
        post = part["bare_post"] or (part["post"] and (part["post_number"] or 0))
        local = re.split(r"[-_.]", part["local"].lower()) if part["local"] else ()
        return cls(
            int(part["epoch"] or 0),
            tuple(int(number) for number in part["release"].split(".")),
            (_SPELLINGS.get(pre, pre), int(part["pre_number"] or 0)) if pre else None,
            int(post) if post is not None else None,
            int(part["dev_number"] or 0) if part["dev"] else None,
            tuple(int(piece) if piece.isdecimal() else piece for piece in local),
        )

    @property
    def public(self) -> Self:
        """The version without its local part."""
        return attrs.evolve(self, local=())

    @property
    def early(self) -> bool:
        """Whether it comes before the release that it names: a pre-release, or one of development."""
        return self.pre is not None or self.dev is not None

    @property
    def bare(self) -> bool:
        """Whether it is an epoch and a release and no more."""
        return not (self.early or self.post is not None or self.local)

    def begins_with(self, release: tuple[int, ...], epoch: int) -> bool:
        """Whether it is of the series ``release.*``."""
        own = self.release + (0,) * (len(release) - len(self.release))
        return self.epoch == epoch and own[: len(release)] == release

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        release = tuple(dropwhile(lambda number: number == 0, reversed(self.release)))[::-1]
        if self.pre is not None:
            pre: tuple[Any, ...] = (0, *self.pre)
        else:  # 1.dev0 comes before 1a0, and 1a0 before 1
            pre = _LOWEST if self.post is None and self.dev is not None else _HIGHEST
        post = _LOWEST if self.post is None else (self.post,)
        dev = _HIGHEST if self.dev is None else (0, self.dev)
        local = tuple((1, piece, "") if isinstance(piece, int) else (0, 0, piece) for piece in self.local)
        return (self.epoch, release, pre, post, dev, local)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)
