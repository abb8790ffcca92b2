"""The spans of other libraries fall under the call, step or run whose code makes them, whatever runs beside it."""

from __future__ import annotations

import asyncio
import random

import pytest
from otel_helpers import TIMEOUT, Exported, traced

import crewbus

httpx = pytest.importorskip("httpx")
instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
AGENTS = 100


def respond(request):
    return httpx.Response(200, text=request.url.path)


async def respond_later(request):
    await asyncio.sleep(0)
    return respond(request)


def check(exported: Exported, agents: int) -> None:
    """Each request names where it was made: in a call, beside one, or in a run nested in it."""
    by_id = {span.context.span_id: span for span in exported.spans}
    requests = [span for span in by_id.values() if span.name == "GET"]
    assert len(requests) == 3 * agents
    for span in requests:
        url = span.attributes.get("http.url") or span.attributes["url.full"]
        assert by_id[span.parent.span_id].name.split()[1:] == url.rpartition("/")[2].split("%20")[1:]


def test_nested_and_concurrent_agents_in_threads():
    def agent(bus, client, number):
        with bus.run(f"agent {number}"):
            client.get(f"http://x/invoke_workflow agent {number}")
            with bus.call(f"model {number}", kind="model") as call:
                with call.attempt():
                    bus.chunk("a")
                    client.get(f"http://x/chat model {number}")
            with bus.run(f"inner {number}"):
                request = crewbus.Thread(target=client.get, args=(f"http://x/invoke_agent inner {number}",))
                request.start()
                request.join(TIMEOUT)

    with traced() as (bus, exported), httpx.Client(transport=httpx.MockTransport(respond)) as client:
        instrumentation.HTTPXClientInstrumentor.instrument_client(client, tracer_provider=exported.tracers)
        futures = [bus.submit(agent, bus, client, number) for number in range(AGENTS)]
        for future in futures:
            future.result(TIMEOUT)
    check(exported, AGENTS)


def test_nested_and_concurrent_agents_in_tasks():
    async def agent(bus, client, number):
        async with bus.run(f"agent {number}"):
            await client.get(f"http://x/invoke_workflow agent {number}")
            with bus.call(f"model {number}", kind="model"):
                await client.get(f"http://x/chat model {number}")
                await bus.achunk("a")
            async with bus.run(f"inner {number}"):
                await asyncio.create_task(client.get(f"http://x/invoke_agent inner {number}"))

    async def main(bus, exported):
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond_later)) as client:
            instrumentation.HTTPXClientInstrumentor.instrument_client(client, tracer_provider=exported.tracers)
            await asyncio.gather(*(agent(bus, client, number) for number in range(AGENTS)))

    with traced() as (bus, exported):
        asyncio.run(main(bus, exported))
    check(exported, AGENTS)


def test_generators_that_take_turns_in_one_thread():
    """Each agent is a generator with a run and a call open; they take turns at random, and some are left early."""

    def agent(bus, client, number):
        with bus.run(f"agent {number}"):
            client.get(f"http://x/invoke_agent agent {number}")
            yield
            with bus.call(f"model {number}", kind="model"):
                client.get(f"http://x/chat model {number}")
                client.get(f"http://x/chat model {number}")
                yield

    with traced() as (bus, exported), httpx.Client(transport=httpx.MockTransport(respond)) as client:
        instrumentation.HTTPXClientInstrumentor.instrument_client(client, tracer_provider=exported.tracers)
        agents = [agent(bus, client, number) for number in range(20)]
        rng, waiting = random.Random(19), [agent for agent in agents for _ in range(2)]
        rng.shuffle(waiting)
        for one in waiting:
            next(one)
        for one in agents:
            one.close()
    check(exported, 20)
    runs = {span.attributes["crewbus.run.id"] for span in exported.spans if span.name.startswith("invoke")}
    assert len(runs) == 20
