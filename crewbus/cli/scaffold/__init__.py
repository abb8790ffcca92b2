"""What ``crewbus new-plugin`` writes: the files of a plugin's distribution."""

from __future__ import annotations

from crewbus.cli.scaffold.distribution import Distribution
from crewbus.cli.scaffold.new_folder import write_folder
from crewbus.cli.scaffold.options import KINDS, author_name, hook_kinds, plugin_name, url_scheme
from crewbus.cli.scaffold.origin import SOURCE, installed_from

__all__ = [
    "KINDS",
    "SOURCE",
    "Distribution",
    "author_name",
    "hook_kinds",
    "installed_from",
    "plugin_name",
    "url_scheme",
    "write_folder",
]
