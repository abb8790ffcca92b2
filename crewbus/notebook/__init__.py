"""For notebooks: streams, shown as they grow."""

from crewbus.notebook.live import live

__all__ = ["live"]
