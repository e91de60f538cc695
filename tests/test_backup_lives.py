"""A line that is restored goes on where it was: nobody's signal gets a second outcome. A stream that is made anew, or
that comes back without what remembers its sequences, begins a new life."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from analyze.testing import World
from bots.testing import KEEPING, configure, done, fleet, once, outcomes, send, signal
from observer.backup import take
from observer.backup.backups import backup, restore
from observer.backup.store import BackupError
from observer.backup.testing import PARTITIONS, SETTINGS, another, common
from observer.readback import audit
from runtime import lives, snapshots, testing
from runtime.bus import Bus, BusError
from runtime.declare import declare
from runtime.telemetry import now_ns, parse_time_ns
from runtime.testing import Broker, drained, eventually
from runtime.wire import Out
from schemas import subjects
from schemas.codec import encode

USERS = [f"u{number}" for number in range(20)]
COIN_S = 0.05  # from one coin to the next


def test_a_life_begins_with_the_stream_unless_it_is_said_to_have_begun_before() -> None:
    info = {"config": {"name": "X", "metadata": {"a": "b"}}, "created": "2026-11-21T10:00:00Z"}
    assert lives.began(info) == "2026-11-21T10:00:00Z"
    assert lives.began({"config": {}, "created": "2026"}) == "2026"
    config = lives.continuing(info["config"], "2025-01-01T00:00:00Z")  # type: ignore[arg-type]
    assert lives.began({**info, "config": config}) == "2025-01-01T00:00:00Z"
    assert config["metadata"]["a"] == "b"
    assert lives.continuing(config, "") == info["config"]


def once_floors_are_noted(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Awaitable[None]]) -> None:
    """What happens between the noting of all consumers' floors and the first look at a stream."""
    durable_floors, left = take.durable_floors, len(subjects.STREAMS)

    async def noted(bus: Bus, stream: str) -> dict[str, int]:
        nonlocal left
        floors = await durable_floors(bus, stream)
        left -= 1
        if left == 0:
            await then()
        return floors

    monkeypatch.setattr(take, "durable_floors", noted)


async def test_what_was_settled_behind_the_noted_floors_is_not_settled_again(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(bus, "a", "b", **KEEPING)
    sent = [signal(user, number) for number in range(3) for user in "ab"]

    async def go_on() -> None:
        await send(bus, *sent[2:4])
        await done(bus)

    once_floors_are_noted(monkeypatch, go_on)
    async with fleet(broker.url):
        await send(bus, *sent[:2])
        await done(bus)
        await backup(common(broker, tmp_path), SETTINGS)
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        await restore(common(other, tmp_path), SETTINGS)
        assert await declare(there, PARTITIONS) == []  # what a restoration notes is no drift
        pending = [
            (await there.consumer_info("SIGNALS", f"p{subjects.partition(user, PARTITIONS)}"))["num_pending"]
            for user in "ab"
        ]
        assert all(pending)  # they come again
        async with fleet(other.url):
            await send(there, *sent[4:])
            await done(there)
        assert await outcomes(there) == once(sent)


async def test_a_stream_that_is_made_anew_or_restored_without_its_ledger_begins_a_new_life(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    """Its sequences are below those that the ledger remembers, and speak of other signals."""
    here = common(broker, tmp_path)
    await configure(bus, "a", **KEEPING)
    await backup(here, SETTINGS)  # SIGNALS is empty
    began = lives.began(await bus.stream_info("SIGNALS"))
    sent = [signal("a", number) for number in range(6)]
    for begin_anew in (None, lambda: bus.api("STREAM.DELETE.SIGNALS"), lambda: restored(here, "SIGNALS")):
        if begin_anew is not None:
            await begin_anew()
            await declare(bus, PARTITIONS)
        async with fleet(broker.url):
            await send(bus, *sent[:2])
            await done(bus)
        del sent[:2]
        found = await outcomes(bus)
        assert set(found.values()) == {1}
        assert found.total() == 6 - len(sent)
    assert parse_time_ns(lives.began(await bus.stream_info("SIGNALS"))) > parse_time_ns(began)
    await restore(here, SETTINGS, overwrite=True)
    assert lives.began(await bus.stream_info("SIGNALS")) == began


async def test_a_restoration_that_breaks_off_leaves_no_stream_with_the_life_of_before(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGNALS would go on beside a ledger that remembers more of it than it holds."""
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)
    began = lives.began(await bus.stream_info("SIGNALS"))
    restore_one = snapshots.restore

    async def broken(bus: Bus, stream: str, *rest: Any) -> None:
        if stream == "FILLS":
            raise BusError("broken off", snapshots.RESTORE_FAILED)
        await restore_one(bus, stream, *rest)

    monkeypatch.setattr(snapshots, "restore", broken)
    with pytest.raises(BackupError, match=r"FILLS could not be restored.*SIGNALS"):
        await restore(here, SETTINGS, overwrite=True)
    assert lives.began(await bus.stream_info("SIGNALS")) != began
    monkeypatch.undo()
    await restore(here, SETTINGS, overwrite=True)
    assert lives.began(await bus.stream_info("SIGNALS")) == began


async def restored(here: Any, *only: str) -> None:
    await restore(here, SETTINGS, only=only, overwrite=True)


async def test_a_backup_of_what_was_restored_carries_the_first_life_on(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    here = common(broker, tmp_path)
    began = {stream.name: lives.began(await bus.stream_info(stream.name)) for stream in subjects.STREAMS}
    for _ in range(2):
        manifest = await backup(here, SETTINGS)
        assert {part.name: part.began for part in manifest.streams} == began
        await restore(here, SETTINGS, manifest.name, overwrite=True)
        info = await bus.stream_info("SIGNALS")
        assert info["created"] != began["SIGNALS"] == lives.began(info)


async def test_a_whole_line_restored_from_a_backup_under_load_loses_and_doubles_nothing(
    broker: Broker,
    bus: Bus,
    tmp_path: Path,
    new_line: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await configure(bus, *USERS, **KEEPING, min_score=0)
    line, world = new_line(broker, partitions=PARTITIONS), World()
    await line.start("analyze", "dispatch", "bots")

    async def mint() -> None:
        for number in count():
            event = world.create(f"M{number}", now_ns())
            await bus.append([Out(subjects.token_subject(event), encode(event), id=event.id)])
            await asyncio.sleep(COIN_S)

    async def stored(stream: str) -> int:
        return int((await bus.stream_info(stream))["state"]["messages"])

    async def much_more() -> None:
        enough = await stored("FILLS") + 10 * len(USERS)

        async def there() -> bool:
            return await stored("FILLS") >= enough

        await eventually(there, "the ledger to grow")

    minting = asyncio.create_task(mint())
    await much_more()
    once_floors_are_noted(monkeypatch, much_more)
    await backup(common(broker, tmp_path), SETTINGS)
    minting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await minting
    for service in ("bots", "dispatch", "analyze"):
        line.stop(service)
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        await restore(common(other, tmp_path), SETTINGS)
        again = new_line(other, partitions=PARTITIONS)
        await again.start("analyze", "dispatch", "bots")
        await drained(there, subjects.consumers(PARTITIONS))
        found = None

        async def at_rest() -> bool:
            nonlocal found
            found = await audit(common(other, tmp_path), 0)
            return found.lost == 0

        await eventually(at_rest, "the last orders to land")
        assert found is not None
        assert found.signals >= 20 * len(USERS)
        assert (found.lost, found.doubled) == (0, 0), found
