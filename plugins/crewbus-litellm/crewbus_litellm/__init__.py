"""crewbus for litellm: each call of litellm's is a crewbus call, with its chunks, its attempts and its end."""

from crewbus_litellm._integration import LitellmPlugin, install, uninstall

__all__ = ["LitellmPlugin", "install", "uninstall"]
