"""For plugins that integrate a library: it is patched once it is imported, while at least one bus is served."""

try:
    from crewbus.integration.integration import Integration, IntegrationPlugin
except ModuleNotFoundError as error:
    if error.name != "wrapt":
        raise
    raise ModuleNotFoundError(
        "crewbus.integration needs wrapt: pip install 'crewbus[integration]'", name="wrapt"
    ) from error

__all__ = ["Integration", "IntegrationPlugin"]
