"""``crewbus resume``: go on with what ``crewbus run`` had begun."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from crewbus import Bus, RunInfo, Store
from crewbus.cli.commands.run import ARGUMENTS, DIRECTORY, TARGET
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import count, positive
from crewbus.cli.input import Call
from crewbus.cli.record_options import add_command, add_run, nothing_in, run_of, store_of
from crewbus.cli.runner import Job, Manner, carry_out
from crewbus.cli.target import resolve
from crewbus.cli.terminal import Terminal
from crewbus.cli.timeline import Timeline
from crewbus.cli.warning_notes import plain_warnings
from crewbus.exceptions import CrewbusError, InputError, RunError, RunHeldError

_EXAMPLES = """
    crewbus resume latest
    crewbus resume 0192f3 --at after-research
    crewbus resume --all --concurrency 20
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "resume",
        "go on with a run that 'crewbus run' began, and stream what is new",
        "It was interrupted, failed or cancelled; of its finished steps none runs again. What the record names as "
        "target is imported and called, in the directory where it was begun: resume only records that you trust.",
        _EXAMPLES,
    )
    add_run(parser, optional=True)
    parser.add_argument("--all", action="store_true", help="every run that was interrupted, in the place of RUN")
    parser.add_argument("--at", metavar="CHECKPOINT", help="from there; what came after it is void")
    parser.add_argument("--force", action="store_true", help="take it from whoever holds it")
    parser.add_argument(
        "--concurrency", metavar="N", type=positive, default=10, help="with --all: runs at once (default: %(default)s)"
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of each different failure")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Resume the run, or all that were interrupted."""
    if (args.run is None) is not args.all:
        raise InputError("say which: RUN, or --all")
    if args.all and (args.at or args.force):
        raise InputError("--at and --force are for one RUN")
    terminal = Terminal()
    # What the target prints would be in the way of the one object.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside, plain_warnings(terminal) as warned:
        store = store_of(args, bus)
        found = _interrupted(bus, terminal) if args.all else [_one(args, bus, store, terminal)]
        if not found and not args.json:
            terminal.note("there is nothing to resume" if store.roots() else nothing_in(store))
            return 0
        name = found[0].target.name if found else ""
        manner = Manner(name, args.concurrency, args.json, args.traceback)
        return carry_out(bus, iter(found), len(found), terminal, manner, warned)


def _one(args: argparse.Namespace, bus: Bus, store: Store, terminal: Terminal) -> Job:
    """The run to resume, which nobody else holds any more; the process is in its directory then."""
    run_id = run_of(args.run, store)
    info = bus.recorded_run(store.root_of(run_id) or run_id)
    _refuse(info, args, bus)
    _enter(info)
    job = _job(info, args.at)
    if info.state == "running":
        store.revoke(info.id)
    where = f" from checkpoint {args.at!r}" if args.at else ""
    steps = Timeline.of(bus, info.id).finished_steps
    terminal.note(f"resuming {job.target.name}{where}: {count(steps, 'finished step')} in the record of {info.id}")
    return job


def _refuse(info: RunInfo, args: argparse.Namespace, bus: Bus) -> None:
    """Raise if the run has finished, is alive and not to be taken by force, or lacks the checkpoint."""
    if info.state == "finished":
        raise RunError(f"run {info.id} has finished: there is nothing to resume; 'crewbus fork' makes another of it")
    if info.state == "running" and not args.force:
        raise RunHeldError(f"run {info.id} is alive: held by {info.holder}; --force takes it away from there")
    if args.at is not None:
        there = dict.fromkeys(checkpoint.name for checkpoint in bus.checkpoints(info.id))
        if args.at not in there:
            raise InputError(f"run {info.id} has no checkpoint {args.at!r}; there are {', '.join(there) or 'none'}")


def _enter(info: RunInfo) -> None:
    directory = _tag(info, DIRECTORY)
    try:
        os.chdir(directory)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise InputError(f"run {info.id} was begun in {directory}, which can't be entered: {error}") from None


def _interrupted(bus: Bus, terminal: Terminal) -> list[Job]:
    """The runs that were interrupted, oldest first; those that can't be resumed here are warned of."""
    jobs = []
    for info in reversed(bus.recorded_runs()):
        if info.state == "interrupted":
            try:
                if Path(_tag(info, DIRECTORY)) != Path.cwd():
                    raise InputError(f"run {info.id} was begun in {_tag(info, DIRECTORY)}: resume it by its id")
                jobs.append(_job(info))
            except CrewbusError as error:
                terminal.warn(one_line(str(error)))
    return jobs


def _job(info: RunInfo, at: str | None = None) -> Job:
    """What was called, to be called again; raises `InputError` and `TargetError`."""
    target = resolve(_tag(info, TARGET))
    try:
        arguments = json.loads(_tag(info, ARGUMENTS))
        call = Call(tuple(arguments["args"]), dict(arguments["kwargs"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"run {info.id}: its tag {ARGUMENTS} does not hold arguments") from None
    target.check(call, f"run {info.id}")
    return Job(target, call, resume=info.id, at=at)


def _tag(info: RunInfo, name: str) -> str:
    try:
        return info.tags[name]
    except KeyError:
        raise InputError(
            f"run {info.id} was not begun by 'crewbus run': resume it in its own program, with bus.resume({info.id!r})"
        ) from None
