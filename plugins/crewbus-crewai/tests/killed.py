"""A crew of three tasks that is killed in the middle; runs in another process."""

from __future__ import annotations

import os
import signal

import crewai
from scripted import Scripted

import crewbus
import crewbus_crewai


def crew(asked, kill_at=None, before_death=None):
    """A crew whose model counts in ``asked``, and dies when it is asked for part ``kill_at``."""

    class Dying(Scripted):
        def call(self, messages, *args, **kwargs):
            part = messages[-1]["content"].partition("part ")[2][0]
            asked.append(part)
            if part == kill_at:
                before_death()
                os.kill(os.getpid(), signal.SIGKILL)
            return f"Thought: I know.\nFinal Answer: text {part}"

    agent = crewai.Agent(role="writer", goal="to write", backstory="It wrote.", llm=Dying(model="dying"))
    tasks = [crewai.Task(description=f"part {n}", expected_output="a text", agent=agent) for n in (1, 2, 3)]
    return crewai.Crew(name="killed", agents=[agent], tasks=tasks)


def main(url, kill_at):
    """Kick it off, recorded in the store that ``url`` names."""
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_crewai.install(bus)
        bus.enable_recording(url)
        crew([], kill_at, bus.flush).kickoff()  # what was recorded before the first call may still be on its way
