"""Serialization: events and values to JSON and back, and fingerprints of arguments."""
