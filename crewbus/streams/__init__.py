"""Streams: one consumer's ordered view of one run."""
