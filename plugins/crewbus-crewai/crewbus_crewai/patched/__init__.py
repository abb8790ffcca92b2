"""What works on crewAI, which is patched as soon as it is imported.

crewAI is imported here, before any module of this package: the patches, which need all of them, then find each of them
importable, whichever is asked for first.
"""

import crewai  # noqa: F401
