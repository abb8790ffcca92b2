"""crewbus for LangChain and LangGraph: their runs are crewbus runs, with calls, chunks and usage."""

from crewbus_langchain.events import CustomEvent, CustomOutput, Interrupted
from crewbus_langchain.plugin import LangchainPlugin, install, uninstall

__all__ = ["CustomEvent", "CustomOutput", "Interrupted", "LangchainPlugin", "install", "uninstall"]
