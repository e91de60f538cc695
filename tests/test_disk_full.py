"""A broker whose disk is full, on a small file system of its own: what was acknowledged is there, and the line goes on
when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bots.testing import KEEPING, configure, done, fleet, outcomes, signal
from runtime import reviving
from runtime.bus import Bus, BusError, Unavailable
from runtime.declare import declare
from runtime.embedded import Child, answers, broker_child, free_port
from runtime.readers import read
from runtime.reviving import revive, write_error
from runtime.settings import Common
from runtime.telemetry import Logger
from runtime.testing import eventually
from runtime.web import fetch
from schemas.codec import encode

PARTITIONS = 4
LEFT_BYTES = 300_000  # beside the filler: a second's work
SIGNALS_MAX = 5_000
FULL = (
    b'{"status":"unavailable","error":"JetStream stream \'$G > FILLS\' write error: write /x/1.blk: no space left on'
    b' device"}'
)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"status":"ok"}', False),
        (503, FULL, True),
        (503, b'{"status":"unavailable","error":"JetStream is not current"}', False),
        (503, b"no JSON", False),
        (503, b"[]", False),
        (503, b"{}", False),
    ],
)
def test_only_a_failed_write_is_one(status: int, body: bytes, said: bool) -> None:
    assert bool(write_error(status, body)) is said


class Embedded:
    """The broker as `mintline up` has it, and who looks after it."""

    def __init__(self, disk: Path) -> None:
        self.disk, self.said = disk, io.StringIO()
        self.port, self._monitor = free_port(), free_port()
        self._log = Logger("up", "json", "warning", self.said)
        self.child: Child = broker_child(disk / "nats", self.port, self._monitor, self._log)
        self._reviving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def _health(self) -> str:
        return f"http://127.0.0.1:{self._monitor}/healthz"

    async def start(self) -> None:
        await self.child.start()
        assert await answers(self._health, 30.0)
        self._reviving = asyncio.create_task(revive(self.child, self._health, self.disk, self._log))

    async def broken(self) -> bool:
        try:
            return bool(write_error(*await fetch(self._health, 5.0)))
        except (OSError, TimeoutError):
            return False

    def fill(self) -> None:
        """All but a little room."""
        (self.disk / "filler").write_bytes(bytes(shutil.disk_usage(self.disk).free - LEFT_BYTES))

    def empty(self) -> None:
        (self.disk / "filler").unlink()

    async def stop(self) -> None:
        if self._reviving is not None:
            self._reviving.cancel()
        await self.child.stop()


@pytest.fixture
async def embedded(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Embedded]:
    monkeypatch.setattr(reviving, "LOOK_S", 0.2)
    made = Embedded(small_disk)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def bus(embedded: Embedded) -> AsyncIterator[Bus]:
    opened = Bus(lambda event, **fields: None)
    await opened.open(Common(nats_url=embedded.url), "test")
    await declare(opened, PARTITIONS)
    yield opened
    await opened.close()


async def test_a_full_disk_loses_nothing_that_was_acknowledged_and_the_line_goes_on_when_there_is_room(
    embedded: Embedded, bus: Bus
) -> None:
    await configure(bus, "a", "b", **KEEPING)
    acknowledged: dict[int, str] = {}

    async def tell(number: int) -> None:
        one = signal("ab"[number % 2], number, ttl_ns=3600 * 10**9)
        acknowledged[await bus.publish(f"signals.{one.user}", encode(one))] = one.id

    async with fleet(embedded.url) as running:
        for number in range(10):
            await tell(number)
        await done(bus)
        embedded.fill()
        for number in range(10, SIGNALS_MAX):
            with contextlib.suppress(Unavailable, BusError):
                await tell(number)
            if await embedded.broken():
                break
        assert await embedded.broken()
        before = embedded.child.pid
        await eventually(lambda: "broker_cannot_write" in embedded.said.getvalue(), "it to be told")
        assert "no space left" in embedded.said.getvalue()
        assert embedded.child.pid == before  # without room a new start would help nobody
        embedded.empty()
        await eventually(lambda: embedded.child.restarts == 1, "the broker to be started again")
        assert embedded.child.pid != before

        async def told() -> bool:
            with contextlib.suppress(Unavailable, BusError):
                await tell(SIGNALS_MAX)
                return True
            return False

        await eventually(told, "a signal to be acknowledged", 60.0)
        await done(bus)
        assert running.process.is_ready
    stored = {message.sequence: message.data for message in await read(bus, "SIGNALS", after_sequence=0)}
    assert acknowledged.keys() <= stored.keys()
    assert all(id_.encode() in stored[sequence] for sequence, id_ in acknowledged.items())
    found = await outcomes(bus)
    assert set(found.values()) == {1}
    assert found.total() >= len(set(acknowledged.values()))
    assert set(acknowledged.values()) <= found.keys()
