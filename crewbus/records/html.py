"""Runs, records and streams as HTML, for notebooks.

Whatever a run says is escaped, and its text is isolated: a right-to-left override in it turns nothing else around.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final, Protocol

from crewbus._util import escape_control, format_duration, format_time, one_line
from crewbus.events import Chunk, Envelope
from crewbus.exceptions import CrewbusError
from crewbus.records.info import RunInfo
from crewbus.records.timeline import Entry, Timeline
from crewbus.stores import StoredEvent

MOST_ROWS: Final = 200
_MOST_TEXT: Final = 10_000
"""How many characters of a text are shown: its last ones."""
_INDENT: Final = 1.2  # em
_DEEPEST: Final = 24
_CELL: Final = "text-align: left; vertical-align: top"
_TEXT: Final = "white-space: pre-wrap; unicode-bidi: isolate; max-height: 30em; overflow: auto"


class LiveRun(Protocol):
    """What is shown of a run that this process executes."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str | None:
        """Its name."""

    @property
    def state(self) -> str:
        """Its state."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Its tags."""

    @property
    def stop_reason(self) -> str | None:
        """Why it was stopped, if it was."""


class ReadRecord(Protocol):
    """What is shown of a record."""

    run_id: str
    root_id: str

    def timeline(self) -> Timeline:
        """Its scopes."""

    def stored(self) -> Iterator[StoredEvent]:
        """Its encoded events."""

    def decoded(self, stored: StoredEvent) -> Envelope:
        """Decode one of them."""


def record_html(record: ReadRecord, info: RunInfo) -> str:
    """A record: its run, and the tree of its scopes with their states, times and texts."""
    top = record.timeline().run(record.run_id)
    tree = list(top.walk()) if top is not None else []
    shown = tree[:MOST_ROWS]
    texts = _texts(record, [entry for _, entry in shown])
    rows = [
        _row(depth, entry, info, (top or entry).start, text) for (depth, entry), text in zip(shown, texts, strict=True)
    ]
    state = info.state if top is None else top.state_in(info)
    name = info.name if top is None or record.run_id == record.root_id else top.name
    more = _note(f"{len(tree) - MOST_ROWS:,} more: crewbus show {record.run_id}") if len(tree) > MOST_ROWS else ""
    error = _note(info.error or info.reason or "")
    return (
        _heading(name, state, record.run_id) + error + _table(("", "state", "start", "duration", "text"), rows) + more
    )


def infos_html(infos: Sequence[RunInfo]) -> str:
    """Recorded runs as a table, the newest first."""
    rows = [
        (
            _code(info.id),
            _inline(info.name or ""),
            _inline(info.state),
            _inline(format_time(info.started)),
            "" if info.ended is None else _inline(format_duration(info.ended - info.started)),
        )
        for info in infos[:MOST_ROWS]
    ]
    more = _note(f"the newest {MOST_ROWS}: crewbus runs lists all") if len(infos) > MOST_ROWS else ""
    return _table(("run", "name", "state", "started", "duration"), rows) + more


class Recorded(Protocol):
    """Where the records of runs are."""

    def record_html(self, run_id: str) -> str:
        """The record of a run as HTML; raises `CrewbusError`."""


def run_html(run: LiveRun, recorded_in: Recorded | None) -> str:
    """A run that this process executes. ``recorded_in``: what has its record; None: it is not recorded."""
    problem = ""
    if recorded_in is not None:
        try:
            return recorded_in.record_html(run.id)
        except CrewbusError as error:  # such as that the store is closed: what is known without it is shown
            problem = str(error)
    elif run.state != "new":
        problem = "not recorded: record=True shows its tree here"
    tags = ", ".join(f"{name}={value}" for name, value in run.tags.items())
    notes = map(_note, (run.stop_reason or "", tags, problem))
    return _heading(run.name, run.state, run.id) + "".join(notes)


def stream_html(name: str | None, state: str, run_id: str, text: str) -> str:
    """A stream of a run: the text that its consumer has taken so far."""
    return _heading(name, state, run_id) + _block(text)


# Parts of a page


def _row(depth: int, entry: Entry, info: RunInfo, start: float, text: str) -> tuple[str, ...]:
    indent = _INDENT * min(depth, _DEEPEST)
    name = one_line(f"{entry.node.kind} {entry.name}" + (f" #{entry.attempt}" if entry.attempt > 1 else ""))
    details = _block(text) + _note(entry.error if depth else "") + _note(entry.content)
    return (
        f'<span style="padding-left: {indent:.1f}em">{_inline(name)}</span>',
        _inline(entry.state_in(info)),
        _inline(f"+{format_duration(entry.start - start)}"),
        "" if entry.node.kind == "checkpoint" else _inline(format_duration(entry.seconds)),
        details,
    )


def _texts(record: ReadRecord, entries: Sequence[Entry]) -> Iterable[str]:
    """The end of the text of each entry, without what was retracted."""
    wanted = {seq: at for at, entry in enumerate(entries) for seq in entry.text.numbers}
    found: list[deque[str]] = [deque(maxlen=_MOST_TEXT) for _ in entries]
    for stored in record.stored() if wanted else ():
        at = wanted.get(stored.seq)
        if at is not None and isinstance(event := record.decoded(stored).event, Chunk) and event.kind == "text":
            found[at].append(event.text)
    return map("".join, found)


def _heading(name: str | None, state: str, run_id: str) -> str:
    return f"<div><strong>{_inline(one_line(name or 'run'))}</strong> {_inline(state)} {_code(run_id)}</div>"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th style="{_CELL}">{_inline(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _block(text: str) -> str:
    """The end of a text, on as many lines as it has."""
    left_out = len(text) - _MOST_TEXT
    before = _note(f"{left_out:,} characters before") if left_out > 0 else ""
    return f'{before}<div dir="auto" style="{_TEXT}">{_inline(text[-_MOST_TEXT:])}</div>' if text else ""


def _note(text: str) -> str:
    return f"<div><small>{_inline(text)}</small></div>" if text else ""


def _code(text: str) -> str:
    return f"<code>{_inline(one_line(text))}</code>"


def _inline(text: str) -> str:
    return escape(escape_control(text))
