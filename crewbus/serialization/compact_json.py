"""Writing compact JSON fast."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any


def json_writer(*, ensure_ascii: bool = True) -> Callable[[Any], str]:
    """Make a function like `json.dumps` that writes compact JSON.

    `json.JSONEncoder` creates its C encoder at each call, which takes half of the time for a small value. An encoder
    without markers can be shared by all threads; a value that contains itself then raises RecursionError.
    """
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)  # CPython's
    if make is None:
        return encoder.encode
    text = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    pieces = make(None, encoder.default, text, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


def texts_writer(names: Sequence[str]) -> Callable[[Any], str | None]:
    """Make a function that writes these attributes of an object as `json_writer` does; None if one is no plain text."""
    quoted = json.encoder.encode_basestring_ascii
    form = "{" + ",".join(f"{quoted(name).replace('%', '%%')}:%s" for name in names) + "}"
    if len(names) == 1:
        (only,) = map(attrgetter, names)

        def write_one(value: Any) -> str | None:
            text = only(value)
            return form % quoted(text) if text.__class__ is str else None

        return write_one
    read = attrgetter(*names)

    def write(value: Any) -> str | None:
        texts = read(value)
        for text in texts:
            if text.__class__ is not str:
                return None
        return form % (*map(quoted, texts),)

    return write
