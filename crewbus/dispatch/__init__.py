"""Dispatch: an event is stamped, recorded, streamed and delivered."""
