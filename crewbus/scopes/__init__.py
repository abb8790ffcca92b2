"""Scopes: runs, calls and attempts, and what is current."""
