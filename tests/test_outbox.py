"""The outbox against a real nats-server: in order and complete, whatever becomes of the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingest import outbox as outbox_module
from ingest.spool import Spool
from ingest.testing import flushed, put, record, sender, stored
from runtime.bus import Bus
from runtime.declare import declare
from runtime.readers import read
from runtime.testing import Broker, Proxy, eventually
from schemas.codec import Decoder
from schemas.events import DeadLetter

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


async def test_records_are_stored_in_order_with_their_ids_and_traces(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool") as one:
        await put(one.outbox, 0, 3000)
        await flushed(one)
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (3000, 0)
        assert one.figures["republished_total"] == 0
    messages = await read(bus, "TOKENS", after_sequence=0)
    assert [int(message.data) for message in messages] == list(range(3000))
    headers = messages[255].headers or {}
    assert headers["Nats-Msg-Id"] == f"{255:032x}"
    assert headers["traceparent"].split("-")[1] == f"{255:032x}"


@pytest.mark.parametrize("waiting_max", [20_000, 50], ids=["in-memory", "spooling"])
async def test_a_broker_killed_again_and_again_loses_and_turns_around_nothing(
    broker: Broker, bus: Bus, tmp_path: Path, waiting_max: int
) -> None:
    total = 6000
    async with sender(broker.url, tmp_path / "spool", waiting_max=waiting_max) as one:
        putting = asyncio.create_task(put(one.outbox, 0, total))
        for _ in range(3):
            await eventually(
                lambda before=one.figures["published_total"]: one.figures["published_total"] > before, "progress"
            )  # type: ignore[misc]
            with broker.stopped():
                await eventually(lambda: not one.bus.connected, "the loss to be noticed")
                await asyncio.sleep(0.05)
            await eventually(lambda: one.bus.connected, "the connection to be back")
        await putting
        await flushed(one)
        assert one.figures["published_total"] == total
        assert one.figures["duplicates_total"] == 0
        assert ("spooling" in one.logged) == (waiting_max == 50)
    assert await stored(bus) == list(range(total))


@pytest.mark.parametrize("forwarded", [False, True], ids=["nothing-stored", "answers-lost"])
@pytest.mark.parametrize("number", [0, 5, 1500])  # the record in whose middle the connection goes
async def test_a_connection_cut_at_any_record_loses_and_turns_around_nothing(
    broker: Broker, bus: Bus, tmp_path: Path, number: int, forwarded: bool
) -> None:
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
        proxy.cut_at(f"Nats-Msg-Id: {number:032x}".encode(), forwarded=forwarded)
        await put(one.outbox, 0, 2000)
        await flushed(one)
        assert not proxy.armed
        assert one.figures["republished_total"] > 0
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (2000, 0)
    assert await stored(bus) == list(range(2000))


async def test_a_slow_broker_is_not_mistaken_for_a_lost_one(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    """The whole takes longer than an answer may; as long as answers come, nothing is sent again."""
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool", ack_wait_s=1.5) as one:
        proxy.delay_s = 0.25
        started_s = asyncio.get_running_loop().time()
        await put(one.outbox, 0, 3000, size=100)
        await flushed(one)
        assert asyncio.get_running_loop().time() - started_s > 1.5
        assert one.figures["republished_total"] == 0
    assert len(await stored(bus)) == 3000


async def test_answers_that_come_too_late_turn_nothing_around(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    """A frozen broker keeps the connection; all is sent again, and it then meets everything twice."""
    async with sender(broker.url, tmp_path / "spool", ack_wait_s=0.5) as one:
        await put(one.outbox, 0, 100)
        await flushed(one)
        with broker.frozen():
            await put(one.outbox, 100, 900)
            await eventually(lambda: one.figures["republished_total"] >= 1600, "two repetitions")
        await put(one.outbox, 900, 1000)
        await flushed(one)
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (1000, 0)
    assert await stored(bus) == list(range(1000))


async def test_only_what_the_venue_said_twice_counts_as_a_duplicate(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
        proxy.cut_at(f"Nats-Msg-Id: {3:032x}".encode(), forwarded=True)
        await put(one.outbox, 0, 10)
        await flushed(one)
        assert one.figures["duplicates_total"] == 0
        await put(one.outbox, 4, 6)
        await flushed(one)
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (10, 2)
    assert await stored(bus) == list(range(10))


async def test_what_an_earlier_life_had_sent_is_no_duplicate_of_the_venue(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as first:
        proxy.cut_at(f"Nats-Msg-Id: {3:032x}".encode(), forwarded=True)
        await put(first.outbox, 0, 10)
        await eventually(lambda: not proxy.armed, "the cut")
        with proxy.unreachable():
            await eventually(lambda: not first.bus.connected, "the loss to be noticed")
            await first.end()
        async with sender(broker.url, tmp_path / "spool") as second:
            await flushed(second)
            assert (second.figures["published_total"], second.figures["duplicates_total"]) == (10, 0)
    assert await stored(bus) == list(range(10))


async def test_a_busy_broker_makes_whoever_puts_wait(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    """Behind is not away: what does not fit in memory waits at the socket, and nothing goes to disk."""
    async with sender(broker.url, tmp_path / "spool", waiting_max=100, ack_wait_s=0.5) as one:
        with broker.frozen():
            putting = asyncio.create_task(put(one.outbox, 0, 5000))
            await eventually(lambda: one.figures["republished_total"] > 0, "a repetition")
            assert not putting.done()
            assert one.figures["buffered_messages"] <= 100 + outbox_module.IN_FLIGHT_MAX
        await putting
        await flushed(one)
        assert "spooling" not in one.logged
    assert await stored(bus) == list(range(5000))


async def test_a_refused_record_is_told_and_does_not_hold_up_the_rest(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool") as one:
        await put(one.outbox, 0, 5)
        await one.outbox.put(record(5, size=130 * 1024))  # more than the stream takes
        await put(one.outbox, 6, 10)
        await flushed(one)
        assert one.figures["publish_refused_total"] == 1
        assert one.logged == ["publish_refused"]
    assert await stored(bus) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    (message,) = await read(bus, "DEAD", after_sequence=0)
    letter = _letter(message.data)
    assert (message.subject, letter.source, letter.subject) == ("dead.TOKENS.ingest", "TOKENS", record(5).subject)
    assert (letter.whole, letter.reason.startswith("the first 92160 of")) == (False, True)
    assert "maximum" in letter.reason


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_refused_record_of_the_spool_is_kept_in_dead_too(
    broker: Broker, bus: Bus, tmp_path: Path, place: int
) -> None:
    left = Spool(tmp_path / "spool", bytes_max=1 << 20)
    left.append(record(number, size=130 * 1024 if number == place else 8) for number in range(3))
    left.close()
    async with sender(broker.url, tmp_path / "spool") as one:
        await flushed(one)
        assert (one.spool.records, one.figures["publish_refused_total"]) == (0, 1)
    assert await stored(bus) == [number for number in range(3) if number != place]
    assert len(await read(bus, "DEAD", after_sequence=0)) == 1


async def test_a_broker_that_cannot_store_is_asked_again_but_not_all_the_time(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    """No stream takes the subject: JetStream is not ready, or its disk is full. Nothing is dropped, nor told 1,000
    times."""
    await bus.api("STREAM.DELETE.TOKENS")
    async with sender(broker.url, tmp_path / "spool") as one:
        await put(one.outbox, 0, 500)
        await asyncio.sleep(1.0)
        assert 1 <= one.logged.count("publish_retry") <= 8
        assert one.figures["published_total"] == 0
        await declare(bus, 4)
        await flushed(one)
        assert one.figures["published_total"] == 500
    assert await stored(bus) == list(range(500))
