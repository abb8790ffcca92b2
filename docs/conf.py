"""How Sphinx builds this documentation: ``tox run -e docs``."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = map(str, [HERE / "_ext", *HERE.parent.glob("plugins/crewbus-*")])

project = "crewbus"
author = "The crewbus developers"
project_copyright = author
release = version = metadata.version("crewbus")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "crewbus_docs"]
source_suffix = {".md": "markdown"}

# A name in single backticks is a link, in docstrings and in pages; one that leads nowhere fails the build.
default_role = "py:obj"
nitpicky = True
# Names that others document, also short; type variables and private aliases, which the docstrings explain.
OTHERS = (
    "argparse|asyncio|cattrs|collections|concurrent|contextlib|contextvars|functools|opentelemetry|os|pathlib|pluggy|"
    "prometheus_client|starlette|threading|types|typing"
)
SHORT = (
    "AbstractContextManager|BaseRoute|Callable|Future|Iterable|Iterator|Mapping|MeterProvider|Path|Self|Sequence|"
    "Starlette|TracerProvider"
)
PRIVATE = (
    "[A-Z]|AnyScope|Authorize|Changes|Contained|Durability|EnteredRun|Feeds|Found|Frame|Functions?|Key|Oversized|Place|"
    "ScopeKind|Slow|Started|(Uns|S)tructure|Upgrades|Written"
)
nitpick_ignore_regex = [("py:.*", rf"({OTHERS})\..*|{SHORT}|(crewbus\w*\.(\w+\.)*)?({PRIVATE})")]

# The distributions import them; the pages do not need them.
autodoc_mock_imports = [
    "crewai",
    "jinja2",
    "langchain_core",
    "langgraph",
    "litellm",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "starlette",
    "uvicorn",
]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_display_short_literal_types = True
python_maximum_signature_line_length = 120
python_trailing_comma_in_multi_line_signatures = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"crewbus {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["crewbus.css"]
html_theme_options = {"navigation_with_keys": True}
