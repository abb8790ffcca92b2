"""For Sphinx: where public names are documented, which hooks are firstresult, the arguments of a command."""

from __future__ import annotations

import argparse
import builtins
import re
from pathlib import Path
from typing import Any

from command_reference import command_reference
from docutils import nodes
from sphinx.addnodes import desc_content, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from crewbus.cli import CommandLine, add_built_in_commands

PLACES = (
    "crewbus",
    "crewbus.hookspecs",
    "crewbus.stores",
    "crewbus.stores.liveness",
    "crewbus.durability",
    "crewbus.events",
    "crewbus.integration",
    "crewbus.stores.journal",
    "crewbus.testing",
)
"""The modules in which a mentioned public name is looked up."""
INSTANCES = {
    "bus": ("Bus",),
    "call": ("Call",),
    "envelope": ("Envelope",),
    "run": ("Run",),
    "stream": ("OwnedStream", "Stream"),
}
"""What the pages call an instance of one of these classes."""
NAME = re.compile(r"@?((?:\w+\.)+\w+|[A-Z]\w+|crewbus_\w+)(\(.*\))?", re.DOTALL)
"""Code that may be a public name: dotted, or a class, or a hook; ``event`` alone may be anything."""


class CrewbusCommand(SphinxDirective):
    """``.. crewbus-command:: run``: the arguments of ``crewbus run``; without an argument, of ``crewbus``."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the command's documentation."""
        command_line = CommandLine()
        add_built_in_commands(command_line)
        whole = command_line.parser
        parser = command_line.commands[self.arguments[0]] if self.arguments else whole
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=80)
        return self.parse_text_to_nodes("\n".join(command_reference(parser, whole)))


# Links


def find_public_name(env: BuildEnvironment, name: str) -> str | None:
    """The documented object that ``name`` means in any module, or None."""
    known = env.domains.python_domain.objects
    names = [name, name.rpartition(".")[2]] if name.startswith("crewbus.") else [name]  # an annotation names a module
    found = (candidate for name in names for candidate in (name, *(f"{place}.{name}" for place in PLACES)))
    return next((candidate for candidate in found if candidate in known), None)


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """A link to a name that Sphinx did not find: ``Bus.emit`` in the docstring of any module."""
    if node.get("refdomain") != "py":
        return None
    found = find_public_name(env, node["reftarget"])
    return _link(app, node["refdoc"], found, text) if found else None


def link_code(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Turn the public names in the code spans of a page into links."""
    for literal in list(doctree.findall(nodes.literal)):
        found = _meant_by(app.env, literal.astext()) if not _is_settled(literal) else None
        link = _link(app, page, found, literal.deepcopy()) if found else None
        if link is not None:
            literal.replace_self(link)


def _is_settled(literal: nodes.literal) -> bool:
    """Whether it is a link already, or is in a docstring, which marks its own links."""
    node: nodes.Node | None = literal
    while node is not None and not isinstance(node, nodes.reference | desc_content):
        node = node.parent
    return node is not None


def _meant_by(env: BuildEnvironment, code: str) -> str | None:
    match = NAME.fullmatch(code)
    if match is None:
        return None
    first, _, rest = match[1].partition(".")
    meant = [f"{owner}.{rest}" for owner in INSTANCES.get(first, (first,))] if rest else [first]
    return next(filter(None, (find_public_name(env, name) for name in meant)), None)


def _link(app: Sphinx, page: str, name: str, text: nodes.TextElement) -> nodes.Node | None:
    domain = app.env.domains.python_domain
    return domain.resolve_xref(app.env, page, app.builder, "obj", name, pending_xref(), text)


def leave_builtins(_app: Sphinx, doctree: nodes.document) -> None:
    """Make no link of Python's own names: ``type`` does not mean an attribute of that name."""
    for xref in list(doctree.findall(pending_xref)):
        if xref.get("refdomain") == "py" and hasattr(builtins, xref["reftarget"]):
            xref.replace_self(xref.next_node(nodes.literal) or nodes.Text(xref["reftarget"]))


# Pages


def prepare_page(_app: Sphinx, page: str, source: list[str]) -> None:
    """Make links lead to pages, and give a title to a table of measurements, which is in no toctree."""
    source[0] = _with_links_to_pages(source[0])
    if page.startswith("benchmarks/table-"):
        source[0] = f"---\norphan: true\n---\n# Measured on Python {page.rpartition('-')[2]}\n\n{source[0]}"


def prepare_included(_app: Sphinx, _path: Path, _page: str, source: list[str]) -> None:
    """Make the links of an included README lead to pages."""
    source[0] = _with_links_to_pages(source[0])


def _with_links_to_pages(text: str) -> str:
    """Links to a distribution's README lead to its page of the reference."""
    text = re.sub(r"\]\((?:\.\./)+docs/", "](/", text).replace("](../../README.md", "](/index.md")
    return re.sub(r"\]\((?:\.\./)+(?:plugins/)?(crewbus-\w+)/README\.md", r"](/reference/\1.md", text)


# Docstrings


def show_defaults(
    _app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show defaults as they are written; ``...`` stands for those that attrs makes for each instance."""
    if signature is not None:
        signature = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature.replace("= NOTHING", "= ..."))
    return signature, returns


def note_firstresult(_app: Sphinx, _what: str, _name: str, hook: Any, _options: Any, lines: list[str]) -> None:
    """Add to the documentation of a hook that it is firstresult."""
    if getattr(hook, "crewbus_spec", {}).get("firstresult"):
        lines += ["*firstresult*: the implementations are called until one returns something other than None.", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the extension to a build."""
    app.add_directive("crewbus-command", CrewbusCommand)
    app.connect("autodoc-process-signature", show_defaults)
    app.connect("autodoc-process-docstring", note_firstresult)
    app.connect("source-read", prepare_page)
    app.connect("include-read", prepare_included)
    app.connect("doctree-read", leave_builtins)
    app.connect("missing-reference", link_public_name)
    app.connect("doctree-resolved", link_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
