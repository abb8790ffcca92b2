"""Streams: one consumer's ordered view of one run."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.streams.waker import forget_wakers

if TYPE_CHECKING:
    from crewbus.streams.attaching import AttachingStream, Existing
    from crewbus.streams.buffer import Buffer
    from crewbus.streams.cursor import Cursor
    from crewbus.streams.follower import Follower
    from crewbus.streams.options import Slow, StreamOptions, checked_options, run_arguments
    from crewbus.streams.owned import OwnedStream, check_streamable
    from crewbus.streams.stream import Stream

__all__ = [
    "AttachingStream",
    "Buffer",
    "Cursor",
    "Existing",
    "Follower",
    "OwnedStream",
    "Slow",
    "Stream",
    "StreamOptions",
    "check_streamable",
    "checked_options",
    "forget_wakers",
    "run_arguments",
]

# Loaded at first use: a bus that streams nothing needs none of it.
__getattr__ = lazy_names(
    __name__,
    {
        "attaching": "AttachingStream Existing",
        "buffer": "Buffer",
        "cursor": "Cursor",
        "follower": "Follower",
        "options": "Slow StreamOptions checked_options run_arguments",
        "owned": "OwnedStream check_streamable",
        "stream": "Stream",
    },
)
