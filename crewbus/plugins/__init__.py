"""Plugins: found, validated, registered, isolated."""
