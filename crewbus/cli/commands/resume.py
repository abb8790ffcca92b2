"""``crewbus resume``: resume runs that ``crewbus run`` started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crewbus import Bus, RunInfo, Store
from crewbus._util import format_count, one_line
from crewbus.bus import RESUMABLE, left_behind
from crewbus.cli.commands.run import add_output_arguments, printing_to_stderr
from crewbus.cli.formatting import examples, paragraph, positive_int
from crewbus.cli.launch_tags import DIRECTORY_TAG, TARGET_TAG, arguments_of, tag_of
from crewbus.cli.record_arguments import add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run, no_runs_message
from crewbus.cli.runner import PlannedRun, RunnerOptions, run_all
from crewbus.cli.target import load_target
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import warnings_as_notes
from crewbus.exceptions import CrewbusError, InputError, RunError, RunHeldError

if TYPE_CHECKING:
    from crewbus.plugins import Commands


STATES: Final = ("suspended", "interrupted", "failed", "cancelled")
"""The states of the runs that can be resumed."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "resume",
        main,
        help="resume a run that 'crewbus run' started, and stream its new text",
        description=paragraph(
            "Resume a run that 'crewbus run' started and that was suspended or interrupted, failed, or was cancelled.",
            "Finished steps are not executed again.",
            "The target that the record names is imported and called, in the directory where the run was started: "
            "resume only records that you trust.",
        ),
        epilog=examples(
            "crewbus resume latest",
            "crewbus resume 0192f3 --at after-research",
            "crewbus resume --all --concurrency 20",
            "crewbus resume --all --state suspended,failed",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser, optional=True)
    option = parser.add_argument
    option("--all", action="store_true", help="resume every suspended or interrupted run, instead of RUN")
    option(
        "--state",
        metavar="STATE,…",
        type=_states,
        help="with --all: the runs in these states: suspended, interrupted, failed, cancelled",
    )
    option("--at", metavar="CHECKPOINT", help="resume from this checkpoint; discard what came after it")
    option("--force", action="store_true", help="take the run from the process that executes it")
    option(
        "--concurrency",
        metavar="N",
        type=positive_int,
        default=10,
        help="with --all: runs at a time (default: %(default)s)",
    )
    add_output_arguments(parser)


def _states(text: str) -> tuple[str, ...]:
    states = tuple(text.split(","))
    unknown = [state for state in states if state not in STATES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(STATES)}")
    return states


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Resume the run, or all runs that were left off."""
    if (args.run is None) is not args.all:
        raise InputError("give either RUN or --all")
    if args.all and (args.at or args.force):
        raise InputError("--at and --force need RUN, not --all")
    if args.state and not args.all:
        raise InputError("--state chooses among --all")
    terminal = Terminal()
    with printing_to_stderr(args.json), warnings_as_notes(terminal) as overdue:
        store = open_store(args, bus)
        planned = (
            _plan_all(bus, args.state or RESUMABLE, terminal) if args.all else [_plan_one(args, bus, store, terminal)]
        )
        if not planned and not args.json:
            terminal.note("there is nothing to resume" if store.roots() else no_runs_message(store))
            return 0
        name = planned[0].target.name if planned else ""
        options = RunnerOptions(name, args.concurrency, args.json, args.traceback, args.raw)
        return run_all(bus, iter(planned), len(planned), terminal, options, overdue)


def _plan_one(args: argparse.Namespace, bus: Bus, store: Store, terminal: Terminal) -> PlannedRun:
    """Plan the run that RUN names: enter its directory, and take it from its holder."""
    run_id = find_run(args.run, store)
    info = bus.records.info(store.root_of(run_id) or run_id)
    _check_resumable(info, args, bus)
    _enter_directory(info)
    planned = _plan(info, args.at)
    if info.state == "running":
        store.revoke(info.id)
    where = f" from checkpoint {args.at!r}" if args.at else ""
    steps = format_count(bus.records.get(info.id).timeline().finished_steps, "finished step")
    terminal.note(f"resuming {planned.target.name}{where}: {steps} in the record of {info.id}")
    return planned


def _check_resumable(info: RunInfo, args: argparse.Namespace, bus: Bus) -> None:
    """Raise if the run has finished, is running without ``--force``, or lacks the checkpoint."""
    if info.state == "finished":
        raise RunError(f"run {info.id} has finished and cannot be resumed; 'crewbus fork' makes a copy of it")
    if info.state == "running" and not args.force:
        raise RunHeldError(f"run {info.id} is running, held by {info.holder}; --force takes it from there")
    if args.at is not None:
        names = dict.fromkeys(checkpoint.name for checkpoint in bus.records.checkpoints(info.id))
        if args.at not in names:
            raise InputError(f"run {info.id} has no checkpoint {args.at!r}; there are {', '.join(names) or 'none'}")


def _enter_directory(info: RunInfo) -> None:
    directory = tag_of(info, DIRECTORY_TAG)
    try:
        os.chdir(directory)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise InputError(f"run {info.id} was started in {directory}, which cannot be entered: {error}") from None


def _plan_all(bus: Bus, states: tuple[str, ...], terminal: Terminal) -> list[PlannedRun]:
    """Plan the runs in these states, oldest first. Warn about those that cannot be resumed here."""
    planned, left = [], left_behind(bus.store, states)
    for summary in left.ready:
        try:
            info = bus.records.info(summary.info.root_id)
            directory = tag_of(info, DIRECTORY_TAG)
            if Path(directory) != Path.cwd():
                raise InputError(f"run {info.id} was started in {directory}: resume it by its id")
            planned.append(_plan(info))
        except CrewbusError as error:
            terminal.warn(one_line(str(error)))
    for summary in left.stuck:
        run_id = summary.info.root_id
        terminal.warn(f"run {run_id} was taken over again and again without getting on: resume it by its id")
    if left.later:
        terminal.note(f"{format_count(len(left.later), 'run')} suspended until later: left as they are")
    return planned


def _plan(info: RunInfo, at: str | None = None) -> PlannedRun:
    """Load the target, and check its recorded arguments. Raises `InputError` and `TargetError`."""
    target = load_target(tag_of(info, TARGET_TAG))
    arguments = arguments_of(info)
    target.check(arguments, f"run {info.id}")
    return PlannedRun(target, arguments, resume=info.id, at=at)
