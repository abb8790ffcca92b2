"""``crewbus worker``: execute queued runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from crewbus import InputError, MemoryStore
from crewbus.cli import Terminal, add_store_argument, load_object, open_store, paragraph
from crewbus_workers.limits import Limits
from crewbus_workers.queue import DEFAULT_QUEUE
from crewbus_workers.serving import Worker, worker
from crewbus_workers.workflows import registered

if TYPE_CHECKING:
    from crewbus import Bus, Commands

REFRESH: Final = 0.5
"""How many seconds pass until the terminal's line is drawn again."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "worker",
        main,
        help="execute queued runs, until a signal stops it",
        description=paragraph(
            "Import MODULE..., which register workflows, and execute the runs that are queued for them, suspended and",
            "due, or left behind by a process that died.",
            "The first SIGTERM or Ctrl-C suspends what runs, so that another worker continues it; the second one",
            "stops at once.",
        ),
        epilog="examples:\n"
        "  crewbus worker agents\n"
        "  crewbus worker agents.py --queue default --queue slow --limit slow=2\n"
        "  crewbus worker agents.py --limit-per-key 1",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    option = parser.add_argument
    option("modules", metavar="MODULE", nargs="+", help="module or path.py that registers workflows")
    option("--queue", metavar="NAME", action="append", help=f"a queue to serve (repeatable; default: {DEFAULT_QUEUE})")
    option("--concurrency", metavar="N", type=_count, default=10, help="runs at a time (default: %(default)s)")
    option(
        "--limit",
        metavar="QUEUE=N",
        type=_limit,
        action="append",
        default=[],
        help="runs of a queue at a time, in all processes (repeatable)",
    )
    option("--limit-per-key", metavar="N", type=_count, help="runs with the same key at a time, in all processes")
    option("--grace", metavar="SECONDS", type=float, default=10.0, help="for what runs, to stop (default: %(default)s)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"an integer of at least 1 is required; got {text!r}")
    return int(text)


def _limit(text: str) -> tuple[str, int]:
    queue, equals, number = text.rpartition("=")
    if not equals or not queue:
        raise argparse.ArgumentTypeError(f"a limit is QUEUE=N; got {text!r}")
    return queue, _count(number)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Serve until a signal comes."""
    store = open_store(args, bus)
    for module in args.modules:
        load_object(module)
    if not list(registered()):
        raise InputError(f"{', '.join(args.modules)}: no workflow is registered there, with @workflow(name=...)")
    if isinstance(store, MemoryStore):
        raise InputError("a worker needs a store that other processes see: install crewbus-sqlite, or name a --store")
    made = worker(bus, queues=_queues(args), concurrency=args.concurrency, grace=args.grace)
    labels = ", ".join(one.label for one in registered())
    terminal = Terminal()
    terminal.note(f"worker of {', '.join(made.queues)}, for {labels}; Ctrl-C stops it")
    with _logging(terminal):
        return asyncio.run(_serve(made, terminal))


def _queues(args: argparse.Namespace) -> dict[str, Limits]:
    limits = dict(args.limit)
    names = args.queue or [DEFAULT_QUEUE]
    unknown = sorted({*limits} - {*names})
    if unknown:
        raise InputError(f"--limit {unknown[0]}=...: this worker does not serve that queue; add --queue {unknown[0]}")
    return {name: Limits(running=limits.get(name), per_key=args.limit_per_key) for name in names}


async def _serve(made: Worker, terminal: Terminal) -> int:
    loop, stopped_by = asyncio.get_running_loop(), list[int]()

    def stop(number: int) -> None:
        if stopped_by:
            with suppress(OSError):
                os.write(2, b"\ncrewbus: stopped at once\n")
            os._exit(128 + number)
        stopped_by.append(number)
        name = signal.Signals(number).name
        terminal.note(f"{name}: suspending {len(made.active)} runs; the next signal stops at once")
        made.stop()

    with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
        for number in SIGNALS:
            loop.add_signal_handler(number, stop, number)
    shown = loop.create_task(_show(made, terminal)) if terminal.err.supports_escapes else None
    try:
        await made.serve()
    finally:
        if shown is not None:
            shown.cancel()
        terminal.clear_progress()
    ended = ", ".join(f"{count} {state}" for state, count in sorted(made.ended.items()))
    terminal.note(f"stopped: {ended or 'no run was executed'}")
    return 0


async def _show(made: Worker, terminal: Terminal) -> None:
    """Keep a line on the terminal: the active runs, and how many end each second."""
    begun, before = time.monotonic(), 0
    while True:
        await asyncio.sleep(REFRESH)
        now, total = time.monotonic(), sum(made.ended.values())
        rate = (total - before) / (now - begun)
        begun, before = now, total
        oldest = sorted(made.active.values(), key=lambda one: one.begun)[:3]
        names = ", ".join(f"{one.name} {one.run_id[:12]} {one.seconds:.0f} s" for one in oldest)
        terminal.show_progress(f"{len(made.active)} active, {total} ended, {rate:.1f}/s  {names}")


@contextmanager
def _logging(terminal: Terminal) -> Iterator[None]:
    """Write a line for each run, unless the terminal shows them."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            terminal.note(self.format(record))

    handler: Any = Lines()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("crewbus.workers")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if terminal.err.supports_escapes else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
