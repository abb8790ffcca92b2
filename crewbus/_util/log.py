"""The log of crewbus."""

from __future__ import annotations


def log_error(text: str, *values: object, cause: BaseException | None = None) -> None:
    """Log an error, with the traceback of ``cause``."""
    import logging  # loaded with the first error: most programs log none

    logging.getLogger("crewbus").error(text, *values, exc_info=cause, stacklevel=2)
