"""``python -m crewbus``: the same as the command ``crewbus``."""

import sys

from crewbus.cli import main

if __name__ == "__main__":
    sys.exit(main())
