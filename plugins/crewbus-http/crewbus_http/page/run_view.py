"""One run as the page shows it: what the templates and the JSON of a run are made from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs

from crewbus import Bus, Record, RunInfo, StoredEvent
from crewbus_http.page.folding import Fold, Line, lines
from crewbus_http.page.streamed import Passage
from crewbus_http.page.timeline import Row, Timeline, model_of

PREVIEW: Final = 280
"""How many characters of a row's text its line shows."""
PANEL: Final = 6000
"""How many characters of the text that streams are shown."""
_OPEN: Final = ("queued", "running", "suspended", "interrupted")


@attrs.frozen
class ShownLine:
    """A line of the timeline."""

    depth: int
    line: Line
    state: str
    """As of its row; what is open is running, suspended or interrupted as its run is."""
    left: float
    """Where its bar begins, from 0 to 1000."""
    width: float
    is_culprit: bool = False

    @property
    def is_fold(self) -> bool:
        """Whether it stands for several rows."""
        return isinstance(self.line, Fold)

    @property
    def passages(self) -> list[Passage]:
        """The end of what it streamed."""
        return [] if isinstance(self.line, Fold) else self.line.text.passages(PREVIEW)

    @property
    def model(self) -> str:
        """The model of a call."""
        return "" if isinstance(self.line, Fold) else model_of(self.line)


class RunView:
    """A root run as of one of its events, or as it grows."""

    def __init__(self, bus: Bus, run_id: str, upto: int | None = None, unfolded: Collection[int] = ()) -> None:
        self._record: Record = bus.record_of(run_id)
        self._bus = bus
        self.unfolded = frozenset(unfolded)
        self.upto = upto
        """The number of the event as of which it is shown; None: the newest one."""
        self.timeline = Timeline(self._record.decoded)
        self.info: RunInfo = bus.records.info(run_id)
        self.read()

    def read(self) -> bool:
        """Take what is new in the record; say whether there was anything."""
        before, state = self.timeline.last, self.info.state
        self.info = self._bus.records.info(self.info.id)  # first: of a run that has ended, all is read then
        for stored in self._stored():
            self.timeline.add(stored)
        return (before, state) != (self.timeline.last, self.info.state)

    def _stored(self) -> list[StoredEvent]:
        found = self._record.stored(self.timeline.last)
        if self.upto is None:
            return [*found]
        upto = []
        for stored in found:
            if stored.seq > self.upto:
                break
            upto.append(stored)
        return upto

    @property
    def last(self) -> int:
        """The number of the newest event of the run."""
        return self.info.events - 1

    @property
    def is_past(self) -> bool:
        """Whether it shows an earlier moment than the newest one."""
        return self.upto is not None and self.upto < self.last

    @property
    def state(self) -> str:
        """The state of the run, or "as of" an earlier event "open" unless it had ended."""
        root = self.timeline.root
        return self.info.state if not self.is_past or root is None else root.state

    @property
    def is_live(self) -> bool:
        """Whether it may go on."""
        return not self.is_past and self.info.state in _OPEN

    @property
    def lines(self) -> list[ShownLine]:
        """The lines of the timeline."""
        root = self.timeline.root
        if root is None:
            return []
        whole, culprit = max(root.seconds, 1e-9), self.timeline.culprit
        found = []
        for depth, line in lines(root, self.unfolded):
            left = 1000 * max(0.0, line.start - root.start) / whole
            width = max(4.0, 1000 * (line.end - line.start) / whole)
            left = min(left, 996.0)
            state = self.shown_state(line.state)
            found.append(
                ShownLine(
                    min(depth, 12), line, state, round(left, 1), round(min(width, 1000 - left), 1), line is culprit
                )
            )
        return found

    def shown_state(self, state: str) -> str:
        """What is open is as the run is."""
        return self.info.state if state == "open" and not self.is_past and self.info.state in _OPEN else state

    @property
    def speaker(self) -> Row | None:
        """The row that streamed last."""
        return max(
            (row for row in self.timeline.rows() if row.text.chunks), key=lambda row: row.text.newest, default=None
        )

    def url(self, base: str, **changes: Any) -> str:
        """Where it is, with another moment or more lines unfolded."""
        at = changes.get("at", self.upto)
        pairs = [("at", at)] if at is not None else []
        pairs += [("open", seq) for seq in sorted(self.unfolded | set(changes.get("open", ())))]
        query = f"?{urlencode(pairs)}" if pairs else ""
        return f"{base}/runs/{quote(self.info.id, safe='')}{query}"


def row_as_json(depth: int, row: Row, state: str) -> dict[str, Any]:
    """A row of the timeline."""
    outer = row.node.parent
    return {
        "kind": row.kind,
        "name": row.name,
        "seq": row.seq,
        "parent": outer.seq if outer is not None else None,
        "depth": depth,
        "run_id": row.node.run_id,
        "state": state,
        "error": row.error or None,
        "attempt": row.attempt,
        "edited": row.is_edited,
        "at": row.at,
        "start": round(row.start, 6),
        "seconds": round(row.seconds, 6),
        "characters": row.text.characters,
        "chunks": row.text.chunks,
        "retracted": row.text.retracted,
        "model": model_of(row) or None,
        "input_tokens": row.spent.input_tokens,
        "output_tokens": row.spent.output_tokens,
        "cost": row.spent.cost,
        "events": row.events,
    }


def view_as_json(view: RunView, info: dict[str, Any]) -> dict[str, Any]:
    """A run as of an event."""
    root, culprit = view.timeline.root, view.timeline.culprit
    rows = [row_as_json(depth, row, view.shown_state(row.state)) for depth, row in root.walk()] if root else []
    return {
        "run": info,
        "as_of": view.timeline.last,
        "last": view.last,
        "state": view.state,
        "failed_in": [row.label for row in culprit.path()] if culprit is not None else None,
        "changes": [attrs.asdict(change) for change in view.timeline.changes],
        "rows": rows,
    }
