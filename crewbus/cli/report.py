"""What is shown of the runs: their text as it arrives, a progress line, a status line, a table."""

from __future__ import annotations

import io
import json
from array import array
from bisect import bisect_left
from typing import Any, Final

from crewbus._util import format_count, format_duration, one_line
from crewbus.cli.formatting import json_or_repr
from crewbus.cli.run_ids import short_id
from crewbus.cli.summary import FailureGroup, RunSummary
from crewbus.cli.table import format_table
from crewbus.cli.terminal import OutputStream
from crewbus.events import Chunk, Envelope, Retracted

_BAR_WIDTH: Final = 20
_MAX_LOCATIONS: Final = 8
_STYLES: Final = {
    "runs": ("bold",),
    "ok": ("green",),
    "failed": ("red", "bold"),
    "cancelled": ("yellow",),
    "suspended": ("yellow",),
}


class TextPrinter:
    """Prints a run's text as it arrives. Retracted text stays, followed by a line that says so."""

    def __init__(self, out: OutputStream) -> None:
        self._out = out
        self._shown: dict[str | None, array[int]] = {}
        """The numbers of the chunks whose text was printed and not retracted, by their parent."""
        self._text = io.StringIO()

    def print(self, envelope: Envelope) -> None:
        """Print the text of a chunk, or that text was retracted."""
        event = envelope.event
        if isinstance(event, Chunk) and event.kind == "text" and event.text:
            self._out.write_text(event.text)
            self._text.write(event.text)
            self._shown.setdefault(envelope.parent, array("q")).append(envelope.seq)
        elif isinstance(event, Retracted) and self._forget(event):
            newline = "\n" if self._out.in_line else ""
            self._out.write(f"{newline}{self._out.styled('[retracted]', 'dim')}\n")

    def print_result(self, result: Any) -> None:
        """Print what a run returned, on lines of its own, unless it is None or text that was printed already."""
        shown = json_or_repr(result)
        text = shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False)
        if result is not None and not (isinstance(result, str) and text.strip() in self._text.getvalue()):
            self._out.write_text(f"{chr(10) * self._out.in_line}{text.rstrip()}\n")

    def _forget(self, event: Retracted) -> bool:
        """Forget the chunks that ``event`` retracts; returns whether there were any."""
        forgotten = 0
        for parent, numbers in self._shown.items():
            first = bisect_left(numbers, event.since)
            if first < len(numbers) and event.covers(numbers[-1], parent):
                forgotten += len(numbers) - first
                del numbers[first:]
        return forgotten > 0


def progress_line(summary: RunSummary, running: int) -> str:
    """How many runs have ended, and how."""
    filled = _BAR_WIDTH * summary.runs // max(1, summary.planned)
    parts = [f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {summary.runs}/{summary.planned}", f"{summary.ok} ok"]
    parts += [f"{count} {state}" for count, state in _unsuccessful(summary) if count]
    parts += [f"{running} running", f"{summary.chunks} chunks", f"{summary.seconds:.1f} s"]
    return "  ".join(parts)


def _unsuccessful(summary: RunSummary) -> tuple[tuple[int, str], ...]:
    return (summary.failed, "failed"), (summary.cancelled, "cancelled"), (len(summary.suspended), "suspended")


def status_line(summary: RunSummary, name: str, run: str | None, err: OutputStream, reason: str) -> str:
    """How the only run ended: ``run`` is its id if it is recorded, ``reason`` why the command stopped it."""
    title = f"run {run}" if run is not None else name
    chunks = f", {format_count(summary.chunks, 'chunk')}" if summary.chunks else ""
    amount = f"{format_duration(summary.seconds)}{chunks}"
    look = f" (crewbus show {run})" if run is not None else ""
    if summary.ok:
        return f"{title} {err.styled('finished', 'green')} in {amount}{look}"
    if summary.suspended:
        return f"{title} {err.styled('suspended', 'yellow')} after {amount}: {how_to_resume(summary)}"
    verb = err.styled("failed", "red", "bold") if summary.failed else err.styled("cancelled", "yellow")
    return f"{title} {verb} after {amount}{look}: {next(map(_describe, summary.failures.values()), reason)}"


def how_to_resume(summary: RunSummary) -> str:
    """Which command continues the runs that were suspended."""
    if len(summary.suspended) == 1:
        return f"resume with 'crewbus resume {short_id(summary.suspended[0])}'"
    return "resume with 'crewbus resume --all'"


def summary_table(summary: RunSummary, out: OutputStream) -> str:
    """The counts, and the different failures."""
    counts = {
        "runs": summary.runs,
        "ok": summary.ok,
        "failed": summary.failed,
        "cancelled": summary.cancelled,
        **({"suspended": len(summary.suspended)} if summary.suspended else {}),
        **({"not started": summary.not_started} if summary.not_started else {}),
        "chunks": summary.chunks,
        "seconds": f"{summary.seconds:.2f}",
    }
    text = format_table(out, [[*counts], [str(count) for count in counts.values()]], _style, right=True)
    failures = sorted(summary.failures.values(), key=lambda failure: -failure.runs)
    text += "".join(_paragraph(failure, out) for failure in failures)
    return text + (f"\nand {summary.omitted} more, each failed differently\n" if summary.omitted else "")


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return _STYLES.get(heading, ()) if cell != "0" else ()


def _paragraph(failure: FailureGroup, out: OutputStream) -> str:
    verb = out.styled(failure.state, "red" if failure.state == "failed" else "yellow")
    runs = format_count(failure.runs, "run")
    return f"\n{runs} {verb}: {_describe(failure)}\n  {out.styled(_locations(failure), 'dim')}\n"


def _describe(failure: FailureGroup) -> str:
    text = ": ".join(part for part in (failure.error, one_line(failure.message)) if part)
    return f"{text} ({failure.at})" if failure.at else text


def _locations(failure: FailureGroup) -> str:
    runs = failure.seen[:_MAX_LOCATIONS]
    lines = sorted((location.line, location.file) for _, location in runs if location is not None)
    text = f"{lines[0][1]}:{', '.join(str(line) for line, _ in lines)}" if lines else f"run {short_id(runs[0][0])}"
    return f"{text} and {failure.runs - len(runs)} more" if failure.runs > len(runs) else text
