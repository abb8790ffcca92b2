"""How the runs are shown: text as it arrives, a line of progress, a status, a table."""

from __future__ import annotations

from typing import Final

from crewbus.cli.errors import one_line
from crewbus.cli.summary import Fault, Tally
from crewbus.cli.terminal import Channel, columns
from crewbus.events import Chunk, Envelope, Retracted

_BAR: Final = 20
_PLACES: Final = 8  # how many inputs the table names for each fault
_COLOURS: Final = {"runs": ("bold",), "ok": ("green",), "failed": ("red", "bold"), "cancelled": ("yellow",)}


class Typist:
    """Writes a run's text as it arrives; what can't be taken back is said to be retracted."""

    def __init__(self, out: Channel) -> None:
        self._out = out
        self._wrote = False

    def show(self, envelope: Envelope) -> None:
        """Write the text of a chunk, or that text was retracted."""
        event = envelope.event
        if isinstance(event, Chunk) and event.kind == "text" and event.text:
            self._out.write(event.text)
            self._wrote = True
        elif isinstance(event, Retracted) and self._wrote:
            between = "\n" if self._out.line_open else ""
            self._out.write(f"{between}{self._out.paint('[retracted]', 'dim')}\n")


def progress(tally: Tally, live: int) -> str:
    """One line: how far it is."""
    filled = _BAR * tally.runs // max(1, tally.planned)
    parts = [f"[{'#' * filled}{'.' * (_BAR - filled)}] {tally.runs}/{tally.planned}", f"{tally.ok} ok"]
    troubles = ((tally.failed, "failed"), (tally.cancelled, "cancelled"))
    parts += [f"{count} {word}" for count, word in troubles if count]
    parts += [f"{live} running", f"{tally.chunks} chunks", f"{tally.seconds:.1f} s"]
    return "  ".join(parts)


def status(tally: Tally, name: str, err: Channel, reason: str) -> str:
    """One line on a single run: how it ended."""
    counted = f"{tally.chunks} chunk{'' if tally.chunks == 1 else 's'} in {tally.seconds:.2f} s"
    if tally.ok:
        return f"{name} {err.paint('finished', 'green')}: {counted}"
    verb = err.paint("failed", "red", "bold") if tally.failed else err.paint("cancelled", "yellow")
    return f"{name} {verb} after {counted}: {next(map(_text, tally.faults.values()), reason)}"


def table(tally: Tally, out: Channel) -> str:
    """The counts, and what each failure was."""
    counts = {
        "runs": tally.runs,
        "ok": tally.ok,
        "failed": tally.failed,
        "cancelled": tally.cancelled,
        **({"not started": tally.not_started} if tally.not_started else {}),
        "chunks": tally.chunks,
        "seconds": f"{tally.seconds:.2f}",
    }
    text = columns(out, [[*counts], [str(count) for count in counts.values()]], _style, right=True)
    faults = sorted(tally.faults.values(), key=lambda fault: -fault.runs)
    text += "".join(_paragraph(fault, out) for fault in faults)
    return text + (f"\nand {tally.unnamed} more, each failed in another way\n" if tally.unnamed else "")


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return _COLOURS.get(heading, ()) if cell != "0" else ()


def _paragraph(fault: Fault, out: Channel) -> str:
    verb = out.paint(fault.state, "red" if fault.state == "failed" else "yellow")
    times = "1 run" if fault.runs == 1 else f"{fault.runs} runs"
    return f"\n{times} {verb}: {_text(fault)}\n  {out.paint(_places(fault), 'dim')}\n"


def _text(fault: Fault) -> str:
    text = ": ".join(part for part in (fault.error, one_line(fault.message)) if part)
    return f"{text} ({fault.at})" if fault.at else text


def _places(fault: Fault) -> str:
    runs = fault.seen[:_PLACES]
    lines = sorted((place.line, place.file) for _, place in runs if place is not None)
    text = f"{lines[0][1]}:{', '.join(str(line) for line, _ in lines)}" if lines else f"run {runs[0][0]}"
    return f"{text} and {fault.runs - len(runs)} more" if fault.runs > len(runs) else text
