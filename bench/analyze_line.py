"""How many token events a second real analyze processes take from a real broker, and what 1,000 a second cost.

`python bench analyze_line [EVENTS] [--parts N] [--rate R] [--json]`: the events of `bench/analysis.py`, stored before
the processes start; from the first acknowledged one to the last, their decisions being stored (fsync on). Then R events
a second for ten seconds, and the CPU that they take. N partitions of the mints with a process each; 60,000, 1 and 1,000
where nothing is said. Three runs, the median and the spread; a minute on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from analysis import events
from harness.children import Child, Children, answers
from harness.show import Spread, heading, machine
from harness.usage import Cpu, cpu_s, less
from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import free_port
from runtime.settings import Common
from runtime.wire import Out, chunks
from schemas import subjects
from schemas.codec import encode

EVENTS = 60_000
RUNS = 3
PACED_S = 10.0
STEP_S = 0.02
POLL_S = 0.01
DONE_S_MAX = 120.0


class Run(NamedTuple):
    """cpu_us: of all analyze processes, an event. percent: of one core, at the even rate."""

    per_s: float
    cpu_us: float
    broker_cpu_us: float
    percent: float
    broker_percent: float


async def acknowledged(bus: Bus, consumers: Sequence[subjects.Consumer], sequence: int) -> None:
    async with asyncio.timeout(DONE_S_MAX):
        for consumer in consumers:
            while True:
                if await floor(bus, consumer) >= sequence:
                    break
                await asyncio.sleep(POLL_S)


async def floor(bus: Bus, consumer: subjects.Consumer) -> int:
    return int((await bus.consumer_info(consumer.stream, consumer.name))["ack_floor"]["stream_seq"])


def split(cost: Cpu) -> tuple[float, float]:
    """CPU seconds of the analyze processes, and of the broker."""
    broker = cost["nats-server"]
    return sum(cost.values()) - broker, broker


async def measure(directory: Path, count: int, parts: int, rate: int) -> Run:
    outs = [Out(subjects.token_subject(event), encode(event)) for event in events(count + int(rate * PACED_S))]
    children, bus = Children(directory), Bus(lambda event, **fields: None)
    consumers = subjects.analyze_consumers(parts)
    try:
        url = await children.broker()
        await bus.open(Common(nats_url=url), "bench")
        await declare(bus, 1, parts)
        for chunk in chunks(outs[:count]):
            await bus.append(chunk)
        started = [await analyze(children, url, number, parts) for number in range(parts)]
        await acknowledged(bus, consumers, 1)
        first = min([await floor(bus, consumer) for consumer in consumers])
        cost, began_s = cpu_s(children.pids), time.perf_counter()
        await acknowledged(bus, consumers, count)
        took_s = time.perf_counter() - began_s
        whole = less(cpu_s(children.pids), cost)
        for child, port in started:
            await answers(child, f"http://127.0.0.1:{port}/readyz")

        cost, began_s, sent = cpu_s(children.pids), time.perf_counter(), count
        while sent < len(outs):
            due = min(len(outs), count + int((time.perf_counter() - began_s) * rate))
            for chunk in chunks(outs[sent:due]):
                await bus.append(chunk)
            sent = due
            await asyncio.sleep(STEP_S)
        await acknowledged(bus, consumers, sent)
        paced_s, paced = time.perf_counter() - began_s, less(cpu_s(children.pids), cost)
    finally:
        await bus.close()
        await children.stop()
    ours, brokers = split(whole)
    even, brokers_even = split(paced)
    measured = count - first
    return Run(
        measured / took_s, ours / measured * 1e6, brokers / measured * 1e6,
        even / paced_s * 100, brokers_even / paced_s * 100,
    )  # fmt: skip


async def analyze(children: Children, url: str, number: int, parts: int) -> tuple[Child, int]:
    """One process, and the port where it says whether it is ready."""
    port = free_port()
    environ = {
        "MINTLINE_NATS_URL": url, "MINTLINE_PARTITIONS": "1", "MINTLINE_MINT_PARTITIONS": str(parts),
        "MINTLINE_INSTANCE": str(number), "MINTLINE_HTTP_PORT": str(port), "MINTLINE_LOG": "json",
        "MINTLINE_DATA_DIR": str(children.directory / "data"),
    }  # fmt: skip
    child = await children.start(f"analyze-{number}", [sys.executable, "-m", "analyze"], environ)
    return child, port


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench analyze_line", description=__doc__)
    parser.add_argument("events", nargs="?", type=int, default=EVENTS)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    about, runs = machine(), []
    heading(Console(stderr=given.json), about)
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(asyncio.run(measure(Path(directory), given.events, given.parts, given.rate)))
    if given.json:
        print(json.dumps({"machine": about, "runs": [run._asdict() for run in runs]}))
        return
    names = {
        "per_s": "events a second", "cpu_us": "analyze, CPU us an event", "broker_cpu_us": "broker, CPU us an event",
        "percent": f"analyze at {given.rate} a second, % of a core", "broker_percent": "broker, with storing them",
    }  # fmt: skip
    for field, name in names.items():
        print(f"{name:<45} {Spread.of([getattr(run, field) for run in runs]).text()}")


if __name__ == "__main__":
    main()
