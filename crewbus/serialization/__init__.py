"""Events and values as JSON, and back."""

from crewbus.serialization.codec import Codec, Written
from crewbus.serialization.fingerprint import canonical
from crewbus.serialization.round_trip import fields_of, is_declared

__all__ = [
    "Codec",
    "Written",
    "canonical",
    "fields_of",
    "is_declared",
]
