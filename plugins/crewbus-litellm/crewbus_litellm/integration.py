"""The integration object that the other modules report through."""

from typing import Final

from crewbus.integration import Integration

integration: Final = Integration("litellm", module="litellm", requires="litellm>=1.106,<1.111", by="crewbus-litellm")
contained: Final = integration.contained
