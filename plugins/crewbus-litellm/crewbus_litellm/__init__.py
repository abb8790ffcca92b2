"""crewbus for litellm: each litellm call is a crewbus call, with its chunks, its attempts and its outcome."""

from crewbus_litellm.plugin import LitellmPlugin, install, uninstall

__all__ = ["LitellmPlugin", "install", "uninstall"]
