"""Partitions change hands: by a clean stop, a kill, a pause, growing and shrinking; nothing lost, nothing doubled, each
user in order. Real broker; where it matters, real processes."""

from __future__ import annotations

import asyncio
import signal as signals
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bots.testing import (
    KEEPING,
    SOL,
    configure,
    expected,
    fleet,
    happen,
    ledger,
    send,
    settled,
    shared,
    signal,
    tell,
    trade,
    until_settled,
)
from runtime import buckets, members
from runtime.bus import Bus
from runtime.members import TTL_S, Replaced
from runtime.testing import Broker, eventually
from runtime.testing import bus as open_bus
from schemas.config import TakeProfit
from schemas.events import Fill, Intent, Reason, Side

PARTITIONS = 32
USERS = [f"u{number}" for number in range(100)]


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[Bus]:
    async with open_bus(broker, partitions=PARTITIONS) as opened:
        yield opened


# Within one process, where each step can be held


async def test_who_joins_takes_a_share_and_who_stops_hands_it_over(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url, PARTITIONS, "a") as first:
        await shared(PARTITIONS, first)
        await tell(bus, 0, USERS)
        async with fleet(broker.url, PARTITIONS, "b") as second:
            await tell(bus, 1, USERS)
            await shared(PARTITIONS, first, second)
            await tell(bus, 2, USERS)
            await until_settled(bus, 3, USERS)
            await second.stop()
            assert await buckets.get(bus, "members", "bots.b") is None  # at once, not when its time is over
            await tell(bus, 3, USERS)
            await shared(PARTITIONS, first)
            await until_settled(bus, 4, USERS)
        assert first.fleet.book.users == len(USERS)
    assert await settled(bus) == expected(4, USERS)


async def test_an_owner_that_wakes_up_overtaken_is_refused_though_nobody_has_written_since(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has decided and sleeps before it stores; its successor has claimed, but not written for these users: only the
    ownership record tells the broker that the sleeper's view is of the past."""
    monkeypatch.setattr(members, "ANNOUNCE_S", 0.01)  # one announcement behind its end would keep it a member
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url, PARTITIONS, "a") as sleeper:
        await shared(PARTITIONS, sleeper)
        asleep, wake = sleeper.hold_lines(monkeypatch.setattr)
        await tell(bus, 0, USERS)
        await asleep.wait()
        await sleeper.silence()
        async with fleet(broker.url, PARTITIONS, "b") as successor:
            _, go_on = successor.hold_lines(monkeypatch.setattr)
            await shared(PARTITIONS, successor)
            assert await ledger(bus) == []
            wake.set()
            await eventually(lambda: sleeper.figure("interruptions_total") > 0, "it to be refused")
            assert await ledger(bus) == []
            go_on.set()
            await until_settled(bus, 1, USERS)
    assert await settled(bus) == expected(1, USERS)


async def test_positions_taken_over_are_ended_by_their_price(broker: Broker, bus: Bus) -> None:
    """The highest value before the hand-over counts: the successor reads the past trades of what it takes over."""
    users = USERS[:12]
    trailing = {"arm_percent": 10, "trail_percent": 10}
    await configure(bus, *users, **{**KEEPING, "tp_strategy": TakeProfit.TRAILING_STOP, "tp_config": trailing})
    async with fleet(broker.url, PARTITIONS, "b") as successor:
        async with fleet(broker.url, PARTITIONS, "a") as first:
            await shared(PARTITIONS, first, successor)
            for number, user in enumerate(users):
                await send(bus, signal(user, number))
            books = (first.fleet.book, successor.fleet.book)
            await eventually(lambda: sum(book.holders.positions for book in books) == len(users), "all to be held")
            for sol in (60, 58):  # armed, and not yet far enough below
                await happen(bus, *(trade(f"M{n}", sol * SOL) for n in range(len(users))))

            def marked() -> bool:
                held = [p for book in books for a in book._accounts.values() for p in a.positions.values()]
                return len(held) == len(users) and all(position.peak_lamports for position in held)

            await eventually(marked, "the peaks to be seen")
            assert books[0].holders.positions > 0
            await first.stop()
        await shared(PARTITIONS, successor)
        await happen(bus, *(trade(f"M{n}", 40 * SOL) for n in range(len(users))))

        async def all_sold() -> bool:
            entries = [entry for line in await ledger(bus) for entry in line.entries]
            sales = [entry.reason for entry in entries if isinstance(entry, Fill) and entry.side is Side.SELL]
            return sales == [Reason.TAKE_PROFIT] * len(users)

        await eventually(all_sold, "every position to be sold")
    orders = Counter(e.id for line in await ledger(bus) for e in line.entries if isinstance(e, Intent))
    assert set(orders.values()) == {1}


async def test_the_earlier_of_two_lives_of_one_instance_ends_and_says_why(broker: Broker, bus: Bus) -> None:
    async with fleet(broker.url, PARTITIONS, "a") as first:
        await shared(PARTITIONS, first)
        async with fleet(broker.url, PARTITIONS, "a") as second:
            await eventually(lambda: first.process._failure is not None, "the first to end")
            assert isinstance(first.process._failure, Replaced)
            assert "MINTLINE_INSTANCE" in str(first.process._failure)
            await first.kill()
            await shared(PARTITIONS, second)


async def test_a_broker_that_comes_back_finds_the_same_shares(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS, **KEEPING)
    async with fleet(broker.url, PARTITIONS, "a") as first, fleet(broker.url, PARTITIONS, "b") as second:
        await shared(PARTITIONS, first, second)
        before = (first.owned, second.owned)
        await tell(bus, 0, USERS)
        broker.kill()
        await eventually(lambda: not bus.connected, "the loss to be noticed")
        broker.start()
        await eventually(lambda: bus.connected, "the broker to be back")
        await tell(bus, 1, USERS)
        await until_settled(bus, 2, USERS)
        await shared(PARTITIONS, first, second)
        assert (first.owned, second.owned) == before
    assert await settled(bus) == expected(2, USERS)


# Real processes


@pytest.fixture
def processes(broker: Broker, new_line: Callable[..., Any]) -> Any:
    """Of the bots, by their instances."""
    at_once = {"MINTLINE_BOTS_LANDING_MS": "0", "MINTLINE_BOTS_SETTLE_MS": "0"}
    return new_line(broker, partitions=PARTITIONS, **at_once)


async def share(processes: Any, *instances: str) -> None:
    """Wait until these have all partitions between them, and each has some."""

    async def all_owned() -> bool:
        owned = [await processes.figure(instance, "partitions_owned") for instance in instances]
        return sum(owned) == PARTITIONS and min(owned) > 0

    await eventually(all_owned, f"{instances} to share the partitions", 40.0)


async def test_four_and_then_two_processes_under_load_keep_each_users_order(
    broker: Broker, bus: Bus, processes: Any
) -> None:
    await configure(bus, *USERS, **KEEPING)
    told = 0

    async def load(stop: asyncio.Event) -> None:
        nonlocal told
        while not stop.is_set():
            await tell(bus, told, USERS)
            told += 1
            await asyncio.sleep(0.02)  # the pace of the load, no wait for anything

    processes.launch("bots", "p0")
    await share(processes, "p0")
    stop = asyncio.Event()
    loading = asyncio.create_task(load(stop))
    for instance in ("p1", "p2", "p3"):
        processes.launch("bots", instance)
    await share(processes, "p0", "p1", "p2", "p3")
    processes.services["p0"].signal(signals.SIGTERM)
    processes.services["p2"].kill()
    await share(processes, "p1", "p3")
    stop.set()
    await loading
    await until_settled(bus, told, USERS)
    assert processes.services["p0"].wait() == 0
    assert await settled(bus) == expected(told, USERS)


async def test_a_paused_process_is_overtaken_and_does_no_harm_when_it_goes_on(
    broker: Broker, bus: Bus, processes: Any
) -> None:
    await configure(bus, *USERS, **KEEPING)
    for instance in ("p0", "p1"):
        processes.launch("bots", instance)
    await share(processes, "p0", "p1")
    for number in range(20):
        await tell(bus, number, USERS)
    processes.services["p0"].signal(signals.SIGSTOP)
    for number in range(20, 40):
        await tell(bus, number, USERS)
    await share(processes, "p1")
    await until_settled(bus, 40, USERS)
    processes.services["p0"].signal(signals.SIGCONT)
    await share(processes, "p0", "p1")
    await tell(bus, 40, USERS)
    await until_settled(bus, 41, USERS)
    assert await settled(bus) == expected(41, USERS)
    assert await processes.figure("p0", "interruptions_total") >= 0  # it lives, and answers


def test_a_silent_member_is_gone_before_five_seconds() -> None:
    """What is left of the five is for claiming and folding."""
    assert TTL_S <= 3
