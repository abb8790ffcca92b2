"""A crew of three tasks that is killed in the middle; runs in another process."""

from __future__ import annotations

import os
import signal

import crewai
from crewai.memory.unified_memory import Memory
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


def remembering(made, folder, asked):
    """The crew ``made``, with a memory in ``folder``, whose model counts in ``asked`` as well."""

    class Analyst(Scripted):
        def call(self, messages, *args, **kwargs):
            part = str(messages).partition("part ")[2][0]
            asked.append(f"analysis of {part}")
            return f'{{"memories": ["It is about part {part}."]}}'

    def embed(texts):
        return [[float(len(text)), 1.0, float(text.count("1"))] for text in texts]

    made._memory = made.memory = Memory(llm=Analyst(model="analyst"), storage=str(folder), embedder=embed)
    return made


def main(url, kill_at, folder=None):
    """Kick it off, recorded in the store that ``url`` names; with a memory in ``folder``."""
    with crewbus.Bus(["sqlite"], entry_points=False) as bus:
        crewbus_crewai.install(bus)
        bus.enable_recording(url)
        asked = []
        made = crew(asked, kill_at, bus.flush)  # what was recorded before the first call may still be on its way
        (remembering(made, folder, asked) if folder else made).kickoff()
