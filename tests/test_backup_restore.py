"""Putting a backup back: exactly, onto nothing that is there unless told, under nobody who works."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

import pytest

from observer.backup.backups import backup, restore
from observer.backup.store import BackupError
from observer.backup.testing import (
    PARTITIONS,
    SETTINGS,
    SMALL,
    acknowledge,
    another,
    append,
    common,
    contents,
    fill,
    flip,
    folder_of,
    part_of,
)
from runtime import buckets, testing
from runtime.bus import Bus
from runtime.readers import DurableReader
from runtime.testing import Broker
from runtime.wire import In, Out
from schemas.subjects import (
    ANALYZE,
    STREAMS,
    stream_config,
)


async def test_a_restoration_is_exact(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    before = await contents(bus)
    manifest = await backup(common(broker, tmp_path), SETTINGS)
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        report = await restore(common(other, tmp_path), SETTINGS)
        assert report.name == manifest.name
        assert {one.name for one in report.streams} == {stream.name for stream in STREAMS}
        assert await contents(there) == before
        for stream in STREAMS:
            info = await there.stream_info(stream.name)
            wanted = stream_config(stream, PARTITIONS)
            assert {field: info["config"].get(field, type(value)()) for field, value in wanted.items()} == wanted
        floor = (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"]
        assert floor == 1234
        # the line goes on where it was
        reader = DurableReader(there, ANALYZE)
        assert await reader.start() == 1234
        first: list[In] = []
        while not first:
            first = reader.take(1)
            await asyncio.sleep(0.001)
        assert first[0].sequence == 1235
        await reader.close()
        assert await there.publish("fills.u1", b"next") == 3001


async def test_a_consumer_that_went_on_during_the_backup_is_set_back_to_the_noted_floor(
    broker: Broker, few: Bus, tmp_path: Path
) -> None:
    here = common(broker, tmp_path)
    on = asyncio.Event()

    def say(text: str) -> None:
        if text.startswith("FILLS: reading"):
            on.set()  # floors are noted, TOKENS comes later

    async def go_on() -> None:
        await on.wait()
        await acknowledge(few, DurableReader(few, ANALYZE), 30)

    going = asyncio.create_task(go_on())
    task = asyncio.create_task(backup(here, SETTINGS, say))
    manifest = await task
    await going
    (floor,) = part_of(manifest, "TOKENS").consumers
    assert floor.floor == 40
    async with another(tmp_path) as other, testing.bus(other, declared=False) as there:
        await restore(common(other, tmp_path), SETTINGS)
        assert (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"] == 40


async def test_a_restoration_refuses_to_overwrite_unless_told(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)
    await append(few, [Out("fills.u1", b"later")])
    before = await contents(few, SMALL)
    with pytest.raises(BackupError, match=r"FILLS \(101 messages\).*--overwrite"):
        await restore(here, SETTINGS)
    assert await contents(few, SMALL) == before
    await restore(here, SETTINGS, overwrite=True)
    assert len((await contents(few, SMALL))["FILLS"]) == 100


async def test_a_data_directory_is_restored_while_nothing_runs_in_it(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here, other = common(broker, tmp_path), tmp_path / "other"
    before = await contents(few, SMALL)
    await backup(here, SETTINGS)
    other.mkdir()
    with (other / "lock").open("w") as lock:  # as `mintline up` holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="stop it first"):
            await restore(here, SETTINGS, into=other)
    await restore(here, SETTINGS, into=other)
    again = Broker(other / "jetstream")
    again.start()
    try:
        async with testing.bus(again, declared=False) as there:
            assert await contents(there, SMALL) == before
            assert (await there.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"] == 40
    finally:
        again.kill()


async def test_one_stream_alone_is_restored(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)
    await few.api("STREAM.DELETE.KV_bots")
    await append(few, [Out("fills.u1", b"later")])
    report = await restore(here, SETTINGS, only=("KV_bots",))
    assert [one.name for one in report.streams] == ["KV_bots"]
    assert "FILLS" in report.untouched
    assert len((await contents(few, SMALL))["FILLS"]) == 101
    entry = await buckets.get(few, "bots", "7")
    assert entry is not None
    assert entry.data == b"{}"
    with pytest.raises(BackupError, match="NONE is not in backup"):
        await restore(here, SETTINGS, only=("NONE",))


async def test_nothing_is_restored_under_processes_that_run(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    await backup(here, SETTINGS)

    async def live() -> None:
        while True:
            few.tell("status.bots.0", b"{}")
            await asyncio.sleep(0.05)

    living = asyncio.create_task(live())
    with pytest.raises(BackupError, match=r"bots\.0"):
        await restore(here, SETTINGS, overwrite=True)
    living.cancel()


async def test_a_damaged_backup_is_not_restored(broker: Broker, few: Bus, tmp_path: Path) -> None:
    here = common(broker, tmp_path)
    manifest = await backup(here, SETTINGS)
    flip(folder_of(tmp_path, manifest.name) / "FILLS.snapshot", 20)
    before = await contents(few, SMALL)
    with pytest.raises(BackupError, match=r"damaged: FILLS\.snapshot"):
        await restore(here, SETTINGS, overwrite=True)
    unproven = await backup(here, SETTINGS, hold_drill=False)
    flip(folder_of(tmp_path, unproven.name) / "FILLS.digests", 20)
    with pytest.raises(BackupError, match=r"fails its drill: FILLS\.digests"):
        await restore(here, SETTINGS, unproven.name, overwrite=True)
    assert await contents(few, SMALL) == before
