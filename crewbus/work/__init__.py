"""Functions run elsewhere, with their caller's context."""
