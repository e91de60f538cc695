"""The outbox and its spool against a real nats-server: what memory cannot hold is on disk, and comes back in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest import outbox as outbox_module
from ingest.spool import Record, Spool, SpoolFull
from ingest.testing import Sender, flushed, put, record, sender, stored
from runtime.bus import Bus
from runtime.testing import Broker, Proxy, eventually


async def test_a_full_memory_goes_to_disk_and_comes_back_in_order(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool", waiting_max=100) as one:
        await put(one.outbox, 0, 50)
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            await put(one.outbox, 50, 1650)
            assert one.outbox.spooling
            await eventually(lambda: one.figures["spooled_messages"] >= 1550, "the figure of the spool")
            assert one.figures["buffered_messages"] == 0  # what waits is on disk, whole
        await put(one.outbox, 1650, 1700)
        await flushed(one)
        assert not one.outbox.spooling
        await eventually(lambda: one.figures["spooled_messages"] == one.figures["spooled_bytes"] == 0, "an empty spool")
        await put(one.outbox, 1700, 1750)
        await flushed(one)
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (1750, 0)
    assert await stored(bus) == list(range(1750))


@pytest.mark.parametrize("full", [False, True], ids=["kept", "refused"])
async def test_several_at_once_lose_nothing_while_memory_moves_to_disk(
    broker: Broker, bus: Bus, tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker comes back, and others put records, just while the move is being written (or fails)."""
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=20) as one:
        loop, moving = asyncio.get_running_loop(), asyncio.Event()
        append, go = one.spool.append, asyncio.Event()
        refusals = [SpoolFull("by the test")] if full else []

        def slow_append(records: list[Record]) -> None:
            loop.call_soon_threadsafe(moving.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
            if refusals:
                raise refusals.pop()
            append(records)

        monkeypatch.setattr(one.spool, "append", slow_append)
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            await put(one.outbox, 0, 20)
            putting = [asyncio.create_task(one.outbox.put(record(number))) for number in range(20, 23)]
            await asyncio.wait_for(moving.wait(), 10)
        await eventually(lambda: one.bus.connected, "the connection to be back")
        putting += [asyncio.create_task(one.outbox.put(record(number))) for number in range(23, 26)]
        await asyncio.sleep(0.1)  # time for the outbox to send what it should not
        go.set()
        await asyncio.gather(*putting)
        await flushed(one)
        assert one.figures["duplicates_total"] == 0
    assert (await stored(bus))[:20] == list(range(20))
    assert sorted(await stored(bus)) == list(range(26))


async def test_a_full_spool_makes_whoever_puts_wait_and_drops_nothing(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=10, spool_bytes_max=8_000) as one:
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            putting = asyncio.create_task(put(one.outbox, 0, 400))
            await eventually(lambda: one.figures["spool_full"] == 1, "a full spool")
            kept = one.spool.records
            assert 10 < kept < 400
            await asyncio.sleep(0.2)
            assert (one.spool.records, putting.done()) == (kept, False)
            assert one.logged.count("spool_full") == 1
        await putting
        await flushed(one)
        await eventually(lambda: one.figures["spool_full"] == 0, "the all-clear")
    assert await stored(bus) == list(range(400))


async def test_memory_that_does_not_fit_on_disk_stays_in_memory(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=200, spool_bytes_max=4_000) as one:
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            putting = asyncio.create_task(put(one.outbox, 0, 201))
            await eventually(lambda: one.figures["spool_full"] == 1, "a full spool")
            assert (one.outbox.spooling, putting.done(), one.spool.records) == (False, False, 0)
        await putting
        await flushed(one)
        await eventually(lambda: one.figures["spool_full"] == 0, "the all-clear")
    assert await stored(bus) == list(range(201))


OWNER = """
import asyncio, sys
from pathlib import Path
from ingest.testing import put, sender

async def main():
    async with sender("nats://127.0.0.1:9", Path(sys.argv[1]), waiting_max=int(sys.argv[2]), connect=False) as one:
        await put(one.outbox, 0, 500)
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_what_is_on_disk_survives_a_killed_owner(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220 - a child to be killed
        [sys.executable, "-c", OWNER, str(tmp_path / "spool"), "20"],
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert (await asyncio.to_thread(owner.stdout.readline)).strip() == b"ready"
        owner.send_signal(signal.SIGKILL)
    finally:
        owner.kill()
        owner.communicate()
    async with sender(broker.url, tmp_path / "spool") as one:
        assert one.outbox.spooling
        await put(one.outbox, 500, 600)  # new ones queue up behind the old
        await flushed(one)
        assert one.figures["published_total"] == 600
    assert await stored(bus) == list(range(600))


async def test_a_life_that_ends_in_the_middle_of_the_spool_repeats_and_loses_nothing(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", bytes_max=64 << 20)
    spool.append([record(number) for number in range(3500)])
    spool.close()
    for _ in range(3):
        async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
            proxy.cut_at(b"Nats-Msg-Id", forwarded=True, times_before=700)
            await eventually(lambda p=proxy: not p.armed, "the cut")  # type: ignore[misc]
            with proxy.unreachable():
                await eventually(lambda s=one: not s.bus.connected, "the loss")  # type: ignore[misc]
                await one.end()
    async with sender(broker.url, tmp_path / "spool") as last:
        await flushed(last)
        assert last.figures["duplicates_total"] == 0
    assert await stored(bus) == list(range(3500))


async def test_closing_with_a_frozen_broker_is_quick_and_keeps_all(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool") as one:
        await put(one.outbox, 0, 10)
        await flushed(one)
        with broker.frozen():
            await put(one.outbox, 10, 1510)  # some in flight, some waiting
            assert not await one.outbox.flushed(0.2)
            await one.end()
            assert one.closed_in_s < 2
            assert "spooled_at_exit" in one.logged
    async with sender(broker.url, tmp_path / "spool") as next_:
        await flushed(next_)
        assert next_.figures["duplicates_total"] == 0
    assert await stored(bus) == list(range(1510))


async def test_what_does_not_fit_on_disk_at_the_end_is_told(tmp_path: Path) -> None:
    one = Sender("nats://127.0.0.1:9", tmp_path / "spool", 1000, 4_000)
    await put(one.outbox, 0, 300)
    with pytest.raises(SpoolFull):
        await one.outbox.close()
    one.spool.close()
