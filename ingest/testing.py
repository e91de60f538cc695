"""What tests of ingest share: an outbox with its own connection and spool, and records to put into it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from ingest.intake import FIGURES as INTAKE_FIGURES
from ingest.outbox import FIGURES, Outbox
from ingest.spool import Record, Spool
from runtime.bus import Bus
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Figures


class Sender:
    """An outbox with its own connection and spool, running."""

    def __init__(
        self, url: str, directory: Path, waiting_max: int, spool_bytes_max: int, ack_wait_s: float = 2.0
    ) -> None:
        self.logged: list[str] = []
        self.bus = Bus(lambda event, **fields: None)
        self.url = url
        self.spool = Spool(directory, bytes_max=spool_bytes_max)
        self.figures = Figures({**FIGURES, **INTAKE_FIGURES})
        self.outbox = Outbox(
            self.bus, self.spool, self.figures, lambda event, **fields: self.logged.append(event),
            waiting_max=waiting_max, ack_wait_s=ack_wait_s,
        )  # fmt: skip
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.closed_in_s = 0.0

    async def open(self) -> None:
        await self.bus.open(Common(nats_url=self.url), "test-outbox")

    def run(self) -> None:
        self.task = asyncio.create_task(self.outbox.run())

    async def end(self) -> None:
        """What ingest does at its end; the outbox has been given its time to flush."""
        if self.ended:
            return
        self.ended = True
        assert self.task is not None
        while not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=0.1)
        if not self.task.cancelled():
            self.task.result()
        started_s = asyncio.get_running_loop().time()
        await self.outbox.close()
        self.closed_in_s = asyncio.get_running_loop().time() - started_s
        await self.bus.close()


@contextlib.asynccontextmanager
async def sender(
    url: str,
    directory: Path,
    *,
    waiting_max: int = 20_000,
    spool_bytes_max: int = 64 << 20,
    ack_wait_s: float = 2.0,
    connect: bool = True,
) -> AsyncIterator[Sender]:
    made = Sender(url, directory, waiting_max, spool_bytes_max, ack_wait_s)
    if connect:
        await made.open()
    made.run()
    try:
        yield made
    finally:
        await made.end()


def record(number: int, size: int = 8) -> Record:
    return Record(f"tokens.traded.m{number % 7}", f"{number:032x}", b"%0*d" % (size, number))


async def put(outbox: Outbox, first: int, last: int, size: int = 8) -> None:
    for number in range(first, last):
        await outbox.put(record(number, size))


async def stored(bus: Bus, stream: str = "TOKENS") -> list[int]:
    return [int(message.data) for message in await read(bus, stream, after_sequence=0)]


async def flushed(one: Sender) -> None:
    assert await one.outbox.flushed(20), dict(one.figures)
