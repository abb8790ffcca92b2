"""For plugins that follow a library: it is changed as soon as somebody imports it, while there is a bus to tell."""

from crewbus.integration._integration import Integration, IntegrationPlugin

__all__ = ["Integration", "IntegrationPlugin"]
