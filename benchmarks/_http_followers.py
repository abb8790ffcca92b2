"""Following runs over HTTP: many followers of many runs on one server, half of them cut at random, and a deploy.

Three processes: one executes the runs, one serves them (`crewbus_http.app`), and this one has the followers. Each
text is compared with what was written. Then bare Starlette sends the same bytes from an `asyncio.Queue` for each.

    python -m benchmarks._http_followers
    python -m benchmarks._http_followers --runs 20 --followers 80 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

WORD: Final = "Tides follow the moon. "
PAUSE: Final = 0.02
"""Seconds between two looks at the lag of the loop."""
PATIENCE: Final = 120.0


# The process that executes the runs


async def execute(url: str, runs: int, rate: float, seconds: float) -> None:
    """Start the runs, say so, and write words in each of them, evenly spread, until the time is up."""
    import crewbus
    from crewbus_sqlite import SQLiteStore

    async def write(run: crewbus.Run, number: int) -> None:
        async with run:
            started.append(run)
            if len(started) == runs:
                await bus.aflush()
                print("started", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
                go.set()
            await go.wait()
            begun = time.monotonic()
            await asyncio.sleep(number / runs / rate)
            for word in range(int(seconds * rate)):
                await run.bus.achunk(f"{word} {WORD}")
                await asyncio.sleep(max(0.0, begun + (word + 1 + number / runs) / rate - time.monotonic()))

    started, go = list[crewbus.Run](), asyncio.Event()
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(url))
        await asyncio.gather(*(write(bus.run(id=f"r{number}"), number) for number in range(runs)))
    print("ended", flush=True)


# The process that serves


class Measured:
    """What a serving process says of itself at ``/measured``."""

    def __init__(self) -> None:
        self.lags = list[float]()
        self.begun = time.process_time()

    async def watch(self) -> None:
        """Note by how much later than it should the loop comes back."""
        while True:
            due = time.perf_counter() + PAUSE
            await asyncio.sleep(PAUSE)
            self.lags.append(time.perf_counter() - due)

    async def tell(self, _: Any) -> Any:
        """CPU seconds, the lags since the last time in milliseconds, and the resident memory in MB."""
        from starlette.responses import JSONResponse

        lags, self.lags = sorted(self.lags), []
        told = {"cpu": time.process_time() - self.begun, "rss": _resident()}
        return JSONResponse(told | {f"p{part}": _at(lags, part) for part in (50, 99, 100)})


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _at(lags: list[float], percent: int) -> float:
    return 1000 * lags[min(len(lags) - 1, len(lags) * percent // 100)] if lags else 0.0


def serve(url: str, port: int) -> None:
    """Serve the runs of a store."""
    from starlette.routing import Route

    import crewbus
    from crewbus_http import app
    from crewbus_sqlite import SQLiteStore

    measured = Measured()
    with crewbus.Bus(entry_points=False) as bus:
        bus.recording.use_store(SQLiteStore(url))
        _listen(app(bus, routes=[Route("/measured", measured.tell)]), measured, port)


def serve_bare(runs: int, rate: float, seconds: float, port: int) -> None:
    """Send what the other sends, from a queue for each follower."""
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    queues: dict[str, list[asyncio.Queue[bytes]]] = {f"r{number}": [] for number in range(runs)}
    measured, writing = Measured(), list[asyncio.Task[None]]()

    async def follow(request: Any) -> StreamingResponse:
        queue = asyncio.Queue[bytes]()
        queues[request.path_params["run"]].append(queue)
        return StreamingResponse(events(queue), media_type="text/event-stream")

    async def events(queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        while (event := await queue.get()) != b"":
            yield event

    async def write(number: int) -> None:
        begun = time.monotonic()
        await asyncio.sleep(number / runs / rate)
        for word in range(int(seconds * rate)):
            for queue in queues[f"r{number}"]:
                queue.put_nowait(message(f"r{number}", word))
            await asyncio.sleep(max(0.0, begun + (word + 1 + number / runs) / rate - time.monotonic()))
        for queue in queues[f"r{number}"]:
            queue.put_nowait(b"")

    async def begin(_: Any) -> Any:
        writing.extend(asyncio.get_running_loop().create_task(write(number)) for number in range(runs))
        return await measured.tell(None)

    routes = [Route("/runs/{run}/events", follow), Route("/measured", measured.tell), Route("/begin", begin)]
    _listen(Starlette(routes=routes), measured, port)


def message(run_id: str, word: int) -> bytes:
    """A chunk as crewbus-http sends it."""
    data = {"run_id": run_id, "seq": word + 1, "parent": f"{run_id}:0", "at": time.time(), "source": None}
    data |= {"attempt": 1, "name": "crewbus.Chunk", "version": 1, "event": {"text": f"{word} {WORD}", "kind": "text"}}
    encoded = json.dumps(data, separators=(",", ":"))
    return f"event: Chunk\nid: {word + 1}.1.0123456789ab\ndata: {encoded}\n\n".encode()


def _listen(application: Any, measured: Measured, port: int) -> None:
    from crewbus_http.commands.serve import Server, listening

    class Watched(Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            self.watching = asyncio.get_running_loop().create_task(measured.watch())

    if not hasattr(application.state, "runs"):
        application.state.runs = type("Nothing", (), {"drain": lambda _: None})()
    with listening("127.0.0.1", port) as bound:
        print(bound.getsockname()[1], flush=True)
        Watched(application).run([bound])


# The followers


class Follower:
    """Follows one run to its end, over as many connections as it takes."""

    def __init__(self, port: int, run_id: str, cut: Callable[[], float] | None) -> None:
        self.port = port
        self.run_id = run_id
        self.texts = list[str]()
        self.connections = 0
        self.connected, self.begun = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._cut = cut
        self._cursor = b"start"
        self._has_ended = False

    async def follow(self) -> None:
        """Return once the run has ended, or a server without cursors has ended the stream."""
        while not self._has_ended:
            try:
                async with asyncio.timeout(self._cut() if self._cut is not None else None):
                    await self._connect()
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.connections += 1
        self.connected.set()
        try:
            head = b"GET /runs/%b/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %b\r\n\r\n"
            writer.write(head % (self.run_id.encode(), self._cursor))
            while (line := await reader.readline()) != b"0\r\n" and line:
                if line.startswith(b"id: "):
                    cursor = line[4:-1]
                elif line.startswith(b"data: "):
                    self._take(json.loads(line[6:]))
                    self._cursor = cursor
        finally:
            writer.close()

    def _take(self, event: dict[str, Any]) -> None:
        if event["name"] == "crewbus.Chunk":
            self.texts.append(event["event"]["text"])
            self.begun.set()
        self._has_ended = event["name"] == "crewbus.RunFinished"


# Together


class Process:
    """A process of this module that says what it has to say on lines."""

    def __init__(self, *command: object) -> None:
        words = [sys.executable, "-u", "-m", "benchmarks._http_followers", *map(str, command)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def says(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop it, and wait."""
        self._process.terminate()
        self._process.communicate()


async def get(port: int, path: str) -> dict[str, Any]:
    """What a server answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    told: dict[str, Any] = json.loads(body)
    return told


async def _measure(
    followers: list[Follower], port: int, begin: Callable[[], Awaitable[object]], seconds: float
) -> dict[str, Any]:
    """Have them follow what begins, and say what the server needed for that in some seconds."""
    for one in followers:
        one.task = asyncio.create_task(one.follow())
    for one in followers:
        await one.connected.wait()
    await begin()
    for one in followers:
        await one.begun.wait()
    before, delivered = await get(port, "/measured"), _delivered(followers)
    await asyncio.sleep(seconds)
    after, delivered = await get(port, "/measured"), _delivered(followers) - delivered
    cpu = 1e6 * (after["cpu"] - before["cpu"]) / max(1, delivered)
    return {"us_per_chunk": cpu, "delivered": delivered, "rss": (before["rss"], after["rss"])} | {
        f"lag_{name}_ms": round(after[name], 1) for name in ("p50", "p99", "p100")
    }


def _delivered(followers: list[Follower]) -> int:
    return sum(len(one.texts) for one in followers)


async def _ended(followers: list[Follower]) -> None:
    await asyncio.wait_for(asyncio.gather(*(one.task for one in followers if one.task is not None)), PATIENCE)


async def compare(args: argparse.Namespace) -> None:
    """Measure one, then the other, and print."""
    half = args.seconds / 2
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:

        def process(*command: object) -> Process:
            made = Process(*command)
            processes.callback(made.stop)
            return made

        store, rng = f"{folder}/runs.db", random.Random(20)
        executing = process("execute", store, args.runs, args.rate, args.seconds)
        assert await executing.says() == "started"
        serving = process("serve", store, 0)
        port = int(await serving.says())

        def followers(cut: Callable[[], float] | None) -> list[Follower]:
            return [Follower(port, f"r{n % args.runs}", cut if n % 2 else None) for n in range(args.followers)]

        async def begin() -> None:
            executing.go()

        ours = followers((lambda: rng.uniform(0.5, 8.0)) if args.cut else None)
        first = await _measure(ours, port, begin, half / 2)
        serving.stop()
        serving = process("serve", store, port)
        assert await serving.says() == str(port)
        await asyncio.sleep(2.0)
        await get(port, "/measured")
        await asyncio.sleep(max(0.0, half - 5.0))
        second = await get(port, "/measured")
        await _ended(ours)
        assert await executing.says() == "ended"
        words = [f"{word} {WORD}" for word in range(int(args.seconds * args.rate))]
        wrong = [one.run_id for one in ours if one.texts != words]
        connections = sum(one.connections for one in ours)
        print(f"{len(ours)} followers of {args.runs} runs, {connections} connections, {len(wrong)} with a wrong text")
        print(f"first server: {first}")
        print(f"after the deploy: {second}")
        serving.stop()
        bare = process("serve_bare", args.runs, args.rate, half, 0)
        port = int(await bare.says())
        theirs = followers(None)
        third = await _measure(theirs, port, lambda: get(port, "/begin"), half / 2)
        print(f"bare Starlette: {third}")
        print(f"CPU per delivered chunk / bare: {first['us_per_chunk'] / third['us_per_chunk']:.2f}")
        for one in theirs:
            if one.task is not None:
                one.task.cancel()


def main() -> None:
    """Run the benchmark, or one of its processes."""
    if len(sys.argv) > 1 and sys.argv[1] in ("execute", "serve", "serve_bare"):
        name, *rest = sys.argv[1:]
        if name == "execute":
            asyncio.run(execute(rest[0], int(rest[1]), float(rest[2]), float(rest[3])))
        elif name == "serve":
            serve(rest[0], int(rest[1]))
        else:
            serve_bare(int(rest[0]), float(rest[1]), float(rest[2]), int(rest[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("runs", 500), ("followers", 2000), ("seconds", 60.0), ("rate", 5.0)):
        parser.add_argument(f"--{option}", type=type(default), default=default)
    parser.add_argument("--no-cuts", dest="cut", action="store_false")
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
