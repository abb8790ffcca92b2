"""Streams: one consumer's ordered view of one run."""

from crewbus.streams.buffer import Buffer
from crewbus.streams.cursor import Cursor
from crewbus.streams.follower import Follower
from crewbus.streams.options import Slow, StreamOptions, checked_options, run_arguments
from crewbus.streams.owned import OwnedStream, check_streamable
from crewbus.streams.stream import Stream
from crewbus.streams.waker import forget_wakers

__all__ = [
    "Buffer",
    "Cursor",
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
