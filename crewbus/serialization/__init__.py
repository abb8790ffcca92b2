"""Events and values as JSON, and back."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names

if TYPE_CHECKING:
    from crewbus.serialization.changes import apply_change, change_between
    from crewbus.serialization.codec import Codec, Written
    from crewbus.serialization.compact_json import json_writer
    from crewbus.serialization.exception_values import read_exception, write_exception
    from crewbus.serialization.fingerprint import OpaqueError, canonical
    from crewbus.serialization.round_trip import fields_of, is_declared

__all__ = [
    "Codec",
    "OpaqueError",
    "Written",
    "apply_change",
    "canonical",
    "change_between",
    "fields_of",
    "is_declared",
    "json_writer",
    "read_exception",
    "write_exception",
]

# Loaded at first use, and cattrs with it: a bus that records nothing needs none of it.
__getattr__ = lazy_names(
    __name__,
    {
        "changes": "apply_change change_between",
        "codec": "Codec Written",
        "compact_json": "json_writer",
        "exception_values": "read_exception write_exception",
        "fingerprint": "OpaqueError canonical",
        "round_trip": "fields_of is_declared",
    },
)
