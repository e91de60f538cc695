"""The test kit: a real broker on a free port, faults as `with` blocks, our processes as children, conditions."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime import buckets
from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import broker_binary, broker_config, free_port
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger
from runtime.vocabulary import Vocabulary
from runtime.web import fetch
from runtime.wire import Out
from schemas.subjects import Consumer

WAIT_S_MAX = 20.0
POLL_S = 0.01


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = WAIT_S_MAX) -> None:
    """Wait for a condition. Raises AssertionError naming what did not come true."""
    due = time.monotonic() + within_s
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        if time.monotonic() > due:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


class _Child:
    """A process that a test started."""

    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class Broker(_Child):
    """A real nats-server on a free port, that can be killed and come back. config: the repository's by default."""

    def __init__(self, data_dir: Path, config: Path | None = None) -> None:
        self.data_dir = data_dir
        self.config = config or broker_config()
        self.port = free_port()
        self.monitor_port = free_port()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                broker_binary(), "-c", str(self.config), "-a", "127.0.0.1", "-p", str(self.port),
                "-m", str(self.monitor_port), "-sd", str(self.data_dir), "-l", str(self.data_dir / "nats.log"),
            ]
        )  # fmt: skip
        due = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < due and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(POLL_S)
        self.kill()
        raise AssertionError(f"nats-server did not start: {self.log()[-2000:]}")

    def log(self) -> str:
        path = self.data_dir / "nats.log"
        return path.read_text() if path.exists() else ""

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The broker is dead inside, and back with its files afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The broker takes connections and says nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


class Proxy:
    """A TCP proxy in front of a broker, for faults of the connection alone: delay, cuts at a chosen place, no answers.

    A hole in a TCP stream does not exist, so whatever is swallowed ends with the connection.
    """

    def __init__(self, broker: Broker) -> None:
        self.delay_s = 0.0  # of each piece of bytes, in both directions
        self.cuts = 0
        self._to = broker.port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._closed_for_new = False
        self._fault: _Fault | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def cut(self) -> None:
        """End every connection now."""
        self.cuts += 1
        for link in self._links:
            link.cancel()

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """Every connection is cut, and no new one is let through."""
        self._closed_for_new = True
        self.cut()
        try:
            yield
        finally:
            self._closed_for_new = False

    def cut_at(
        self, pattern: bytes, *, forwarded: bool, times_before: int = 0, then: Callable[[], None] | None = None
    ) -> None:
        """Cut once, when the client has written the pattern so many times before and once more.

        forwarded: the broker gets what the client wrote, and only its answer is swallowed; else it gets nothing.
        then: is called at that moment, before the client can notice.
        """
        self._fault = _Fault(pattern, forwarded, times_before, then)

    @property
    def armed(self) -> bool:
        """Whether a cut that was asked for has still to happen."""
        return self._fault is not None

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        try:
            if not self._closed_for_new:
                self._links.add(link)
                await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._to)
        answered = asyncio.Event()
        swallow = asyncio.Event()

        async def down() -> None:
            while data := await from_broker.read(1 << 16):
                answered.set()
                await asyncio.sleep(self.delay_s)
                if not swallow.is_set():
                    writer.write(data)
                    await writer.drain()

        async def up() -> None:
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay_s)
                fault = self._fault
                if fault is None or not fault.due(data):
                    to_broker.write(data)
                    await to_broker.drain()
                    continue
                self._fault = None
                self.cuts += 1
                if fault.forwarded:
                    swallow.set()
                    answered.clear()
                    to_broker.write(data)
                    await to_broker.drain()
                    await asyncio.wait_for(answered.wait(), WAIT_S_MAX)
                if fault.then is not None:
                    fault.then()
                return

        pumps = [asyncio.create_task(down()), asyncio.create_task(up())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_broker.close()


class _Fault:
    """Counts a pattern in a stream of bytes that comes in arbitrary pieces."""

    def __init__(
        self, pattern: bytes, forwarded: bool, times_before: int, then: Callable[[], None] | None = None
    ) -> None:
        self.forwarded = forwarded
        self.then = then
        self._pattern = pattern
        self._left = times_before
        self._tail = b""

    def due(self, data: bytes) -> bool:
        text = self._tail + data
        self._left -= text.count(self._pattern)
        self._tail = text[len(text) - len(self._pattern) + 1 :] if len(self._pattern) > 1 else b""
        return self._left < 0


@contextlib.asynccontextmanager
async def bus(
    broker: Broker | Proxy, *, partitions: int = 4, mint_partitions: int = 1, declared: bool = True
) -> AsyncIterator[Bus]:
    """A connected bus, with streams and consumers declared."""
    opened = Bus(lambda event, **fields: None)
    await opened.open(Common(nats_url=broker.url), "test")
    try:
        if declared:
            await declare(opened, partitions, mint_partitions)
        yield opened
    finally:
        await opened.close()


class Service(_Child):
    """One of our processes as a real child: `python -m <module>`, its output in a file."""

    def __init__(self, module: str, out: Path, **environ: str) -> None:
        self.module = module
        self.out = out
        quiet = {"MINTLINE_CANARY_INTERVAL_S": "0"}  # tests count messages; one about canaries asks for them
        self._env = {**quiet, **os.environ, "PYTHONSAFEPATH": "1", "MINTLINE_LOG": "json", **environ}

    def start(self, *arguments: str) -> None:
        with self.out.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments], env=self._env, stdout=sink, stderr=sink
            )

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, within_s: float = WAIT_S_MAX) -> int:
        assert self._process is not None
        return self._process.wait(within_s)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""


async def figures(url: str) -> dict[str, int]:
    """What a `/metrics` page says, by name and labels without `mintline_`; nothing where nobody answers."""
    try:
        _, body = await fetch(url, 5.0)
    except (OSError, TimeoutError):
        return {}
    rows = (line.rpartition(" ") for line in body.decode().splitlines() if line.startswith("mintline_"))
    return {key.removeprefix("mintline_"): int(float(value)) for key, _, value in rows}


def labelled(figures: Mapping[str, int], name: str) -> list[int]:
    """The values of one figure: one, or one of each of its labels."""
    return [value for key, value in figures.items() if key.partition("{")[0] == name]


async def drained(bus: Bus, consumers: Iterable[Consumer], within_s: float = 2 * WAIT_S_MAX) -> None:
    """Wait until all that these consumers were given is acknowledged. They are in the order of the line."""
    wanted = tuple(consumers)

    async def acknowledged() -> bool:
        infos = [await bus.consumer_info(consumer.stream, consumer.name) for consumer in wanted]
        return not any(info["num_pending"] + info["num_ack_pending"] for info in infos)

    await eventually(acknowledged, f"{[consumer.name for consumer in wanted]} to be done", within_s)


class Life:
    """One life of a process's work, in the test's own process but with its own connection, so that each step can be
    held."""

    def __init__(self, service: str, common: Common, figures: Vocabulary, log_level: str = "error") -> None:
        self.process = Process(service, common, Logger(service, "json", log_level, io.StringIO()), figures)
        self.task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.process.bus.open(self.process.common, f"test-{self.process.service}")

    def work(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(work)

    def figure(self, name: str) -> int:
        """The sum over all labels."""
        return sum(labelled(self.process.figures, name))

    def hold(
        self, held: Callable[[list[Out]], bool], setattr: Callable[[object, str, object], None]
    ) -> tuple[asyncio.Event, asyncio.Event]:
        """Such batches are not stored until the second event is set; the first tells that one waits.

        setattr: pytest's monkeypatch.setattr.
        """
        waiting, go_on = asyncio.Event(), asyncio.Event()
        append = self.process.bus.append

        async def hanging(messages: list[Out], *, expect_last: int | None = None) -> int:
            if held(messages):
                waiting.set()
                await go_on.wait()
            return await append(messages, expect_last=expect_last)

        setattr(self.process.bus, "append", hanging)
        return waiting, go_on

    async def silence(self) -> None:
        """As when its time as a member is over: it announces itself no more, and is forgotten."""
        for task in self.process._tasks:
            if task.get_name() == "announce":
                task.cancel()
        # By its own connection: behind an announcement that is under way.
        await buckets.delete(self.process.bus, "members", f"{self.process.service}.{self.process.instance}")

    async def stop(self) -> None:
        """In good order."""
        assert self.task is not None
        self.process.stop.set()
        await self.task

    async def kill(self) -> None:
        """As kill -9: nothing more is decided, stored or acknowledged."""
        tasks = [task for task in (self.task, *self.process._tasks) if task is not None]
        while not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()  # again and again: `wait_for` of Python 3.11 may swallow one
            await asyncio.wait(tasks, timeout=0.1)
        await self.process.bus.close()
