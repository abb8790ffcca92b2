"""What a command takes, as reStructuredText: told by its argparse parser."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator


def command_reference(parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> Iterator[str]:
    """The lines that document ``parser``, a command of ``whole``: usage, description, arguments, what its epilog says.

    Options that ``whole`` has itself are told where it is.
    """
    yield from _literal(parser.format_usage())
    yield from (_prose(parser.description or ""), "", f".. program:: {parser.prog}", "")
    for action in parser._actions:
        if _is_told(action) and (
            parser is whole or not set(action.option_strings) & whole._option_string_actions.keys()
        ):
            yield from (f".. option:: {_title(action)}", "", f"   {_help(action, parser)}", "")
    for section in filter(None, (parser.epilog or "").split("\n\n")):
        heading, _, text = section.partition("\n")
        yield from (heading.capitalize(), "", *_literal(text))


def _is_told(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _title(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    return ", ".join(f"{option} {value}" for option in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    first = text.partition(" ")[0]
    return _prose(f"{text[:1].upper()}{text[1:]}." if first.isalpha() else f"{text}.")


def _prose(text: str) -> str:
    """``text`` as a paragraph, its options as code."""
    plain = re.sub(r"[*_`|\\]", r"\\\g<0>", " ".join(text.split()))
    return re.sub(r"(?<!\S)--[\w-]+", r"``\g<0>``", plain)


def _literal(text: str) -> Iterator[str]:
    yield from (".. code-block:: text", "", *textwrap.indent(textwrap.dedent(text), "   ").splitlines(), "")
