"""What a received message costs: a durable reader over a standing pull, on nats-py's own path and on the hot one.

`python bench receive [MESSAGES] [--json]`: 100,000 messages of 200 bytes with a trace header, stored in atomic
batches as the line stores them, by a real nats-server with the repository's configuration. Each is read in order and
acknowledged, up to 500 at a time; both ways in turn, three runs each, the median and the spread. `stock` subscribes the
reader's inbox through nats-py: its parser, its queue, its task. Half a minute on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from harness.show import heading, machine
from runtime.bus import Bus
from runtime.declare import declare
from runtime.hotpath import Handler, Inbox
from runtime.readers import DurableReader
from runtime.settings import Common
from runtime.testing import Broker
from runtime.wire import Out, trace_headers
from schemas import subjects

MESSAGES = 100_000
BODY = b"x" * 200
TAKE_MAX = 500
RUNS = 3


class Run(NamedTuple):
    per_second: float
    client_us: float  # CPU of this process, a message
    server_us: float


class Stock(Bus):
    """A bus whose inboxes get their messages from nats-py, each from a task through an awaited callback."""

    async def subscribe_inbox(self, on_message: Handler, on_failure: Callable[[str], None]) -> Inbox:
        subject = f"{self._inbox}-{next(self._tokens)}"

        async def deliver(message: Any) -> None:
            on_message(message.subject.encode(), message.reply.encode(), _block(message), message.data)

        return Inbox(subject, await self._client.subscribe(subject, cb=deliver), lambda: None)


def _block(message: Any) -> bytes:
    """nats-py has parsed the headers; only those of a status are looked at."""
    if message.reply:
        return b""
    headers = message.headers or {}
    first = f"NATS/1.0 {headers.get('Status', '')} {headers.get('Description', '')}"
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


async def fill(bus: Bus, count: int) -> None:
    for start in range(0, count, 1000):
        await bus.append(
            [
                Out(f"decisions.SNIPER.m{i}", BODY, trace_headers(f"{i:032x}"))
                for i in range(start, min(start + 1000, count))
            ]
        )


async def drain(bus: Bus, broker_pid: int, count: int) -> Run:
    """Read everything with a new consumer."""
    await bus.api(f"CONSUMER.DELETE.{subjects.DISPATCH.stream}.{subjects.DISPATCH.name}")
    await declare(bus, 1)
    reader = DurableReader(bus, subjects.DISPATCH)
    await reader.start()
    got, server_s, client_s, started_s = 0, cpu_s(broker_pid), time.process_time(), time.perf_counter()
    while got < count:
        reader.ready.clear()
        messages = reader.take(TAKE_MAX)
        if messages:
            got += len(messages)
            reader.acknowledge(messages[-1])
            await asyncio.sleep(0)
        else:
            await reader.ready.wait()
    took_s, client_s = time.perf_counter() - started_s, time.process_time() - client_s
    await reader.close()
    return Run(count / took_s, client_s / count * 1e6, (cpu_s(broker_pid) - server_s) / count * 1e6)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(count: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {"stock": [], "hybrid": []}
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory))
        broker.start()
        buses = {"stock": Stock(print), "hybrid": Bus(print)}
        try:
            for bus in buses.values():
                await bus.open(Common(nats_url=broker.url), "bench")
            await declare(buses["hybrid"], 1)
            await fill(buses["hybrid"], count)
            assert broker._process is not None
            for _ in range(RUNS):
                for name, bus in buses.items():
                    runs[name].append(await drain(bus, broker._process.pid, count))
        finally:
            for bus in buses.values():
                await bus.close()
            broker.kill()
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench receive", description=__doc__)
    parser.add_argument("messages", nargs="?", type=int, default=MESSAGES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    about = machine()
    heading(Console(stderr=given.json), about)
    runs = asyncio.run(measure(given.messages))
    if given.json:
        print(
            json.dumps({"machine": about, **{name: [run._asdict() for run in found] for name, found in runs.items()}})
        )
        return
    print("path    messages/s (median of 3; lowest to highest)   client µs   server µs, a message")
    for name, found in runs.items():
        speeds = sorted(run.per_second for run in found)
        client_us, server_us = (statistics.median(run[field] for run in found) for field in (1, 2))
        print(
            f"{name:<7} {statistics.median(speeds):>10,.0f}  ({speeds[0]:,.0f} to {speeds[-1]:,.0f})"
            f"{client_us:>22.2f} {server_us:>11.2f}"
        )


if __name__ == "__main__":
    main()
