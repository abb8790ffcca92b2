"""Where the installed crewbus came from, so that others can be installed from there too."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

SOURCE: Final = "CREWBUS_SOURCE"
"""The variable that names it to the ``tox.ini`` of a new plugin."""


def installed_from() -> str | None:
    """What to give pip to install the same crewbus: a path, or the URL of a repository; None: its name is enough.

    pip notes it where a distribution did not come from an index (PEP 610).
    """
    try:
        noted = distribution("crewbus").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return None if noted is None else _requirement(json.loads(noted))


def _requirement(noted: dict[str, Any]) -> str | None:
    url = str(noted["url"])
    if "vcs_info" in noted:
        return f"{noted['vcs_info']['vcs']}+{url}@{noted['vcs_info']['commit_id']}"
    if urlsplit(url).scheme != "file":
        return url
    path = url2pathname(urlsplit(url).path)
    return path if Path(path).exists() else None
