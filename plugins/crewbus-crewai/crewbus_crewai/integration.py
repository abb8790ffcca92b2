"""The integration object that the other modules report through."""

from typing import Final

from crewbus.integration import Integration

# 1.15.23 is the first version that wraps the call methods of every class of models in one place.
integration: Final = Integration("crewAI", module="crewai", requires="crewai>=1.15.23,<1.16", by="crewbus-crewai")
contained: Final = integration.contained
