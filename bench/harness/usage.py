"""What processes cost: CPU seconds as the kernel counts them, and memory with shared pages shared out (PSS)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil

SAMPLE_S = 0.1

Cpu = dict[str, float]  # process -> CPU seconds since its start


def cpu_s(pids: Mapping[str, int]) -> Cpu:
    found = {}
    for name, pid in pids.items():
        times = psutil.Process(pid).cpu_times()
        found[name] = times.user + times.system
    return found


def less(after: Cpu, before: Cpu) -> Cpu:
    return {name: after[name] - before[name] for name in after}


def memory_bytes(pid: int) -> tuple[int, int]:
    """(PSS, RSS): pages shared by several processes count in parts, or wholly in each."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Rss"):
            found[name] = int(rest.split()[0]) * 1024
    return found["Pss"], found["Rss"]


class Samples:
    """CPU seconds over time, so that the cost up to a moment that is known only later can be told."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, Cpu]] = []

    def take(self, pids: Mapping[str, int]) -> None:
        cost = cpu_s(pids)
        self._taken.append((time.time_ns(), cost))

    def between(self, start_ns: int, end_ns: int) -> Cpu:
        """From the last sample before the start to the first one after the end, or the last."""
        first = max((s for s in self._taken if s[0] <= start_ns), default=self._taken[0], key=lambda s: s[0])
        last = min((s for s in self._taken if s[0] >= end_ns), default=self._taken[-1], key=lambda s: s[0])
        return less(last[1], first[1])


@contextlib.asynccontextmanager
async def sampled(pids: Mapping[str, int]) -> AsyncIterator[Samples]:
    """Sample while inside the block, and once at its end."""
    samples = Samples()
    samples.take(pids)

    async def keep() -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            samples.take(pids)

    task = asyncio.create_task(keep())
    try:
        yield samples
        samples.take(pids)
    finally:
        task.cancel()
