"""Partitions change hands: by a clean stop, a kill, a pause, growing and shrinking; nothing lost, nothing doubled, each
user in order. Real broker; where it matters, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal as signals
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from decimal import Decimal

import pytest

from bots.fleet import Fleet
from bots.owning import FIGURES as OWNING_FIGURES
from bots.telling import FIGURES
from runtime import buckets
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.members import TTL_S, Replaced
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Logger, now_ns
from runtime.testing import Broker, Service, eventually
from runtime.web import fetch
from runtime.wire import Out, chunks
from schemas import curve, subjects
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import (
    Append,
    Fill,
    Intent,
    Market,
    Origin,
    Reason,
    Refusal,
    RiskLevel,
    Side,
    Signal,
    Strategy,
    TokenTraded,
)

PARTITIONS = 32
SECOND = 1_000_000_000
USERS = [f"u{number}" for number in range(100)]

Make = Callable[..., Service]
_append: Decoder[Append] = Decoder(Append)


def market(sol: int = 20) -> Market:
    state = curve.quote_buy_sol(curve.FRESH, sol * SECOND).after
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=now_ns())


def addressed(user: str, number: int) -> Signal:
    at_ns = now_ns()
    return Signal(
        id=f"{number:032x}:SNIPER:{user}", user=user, decision_id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER,
        side=Side.BUY, mint=f"M{number}", creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True,
        market=market(), config_revision=0, decided_at_ns=at_ns, expires_at_ns=at_ns + 60 * SECOND,
    )  # fmt: skip


def trade(mint: str, sol: int) -> TokenTraded:
    state = market(sol)
    return TokenTraded(
        id=f"{mint}{state.seen_at_ns}", mint=mint, signature="s", side=Side.SELL, trader="x", pool="pump", lamports=1,
        tokens=1, trader_tokens_after=None, market=state, pool_lamports=None, pool_tokens=None,
        seen_at_ns=state.seen_at_ns,
    )  # fmt: skip


async def tell(bus: Bus, number: int, users: Iterable[str] = USERS) -> None:
    """One decision's signals."""
    for chunk in chunks([Out(f"signals.{user}", encode(addressed(user, number))) for user in users]):
        await bus.append(chunk)


async def configure(bus: Bus, *users: str, **config: object) -> None:
    made = BotConfig(
        **{  # type: ignore[arg-type]
            "strategy": Strategy.SNIPER, "tp_strategy": TakeProfit.FIXED, "tp_config": {"percent": 10_000},
            "max_open_positions": 100, "max_entries_per_hour": 3_600, "budget_sol": Decimal(1_000),
            "stop_loss_percent": Decimal(100), **config,
        }
    )  # fmt: skip
    values = [
        (user, encode(BotWanted(user=user, wanted=Wanted.RUNNING, config=made, changed_at_ns=now_ns())))
        for user in users
    ]
    await buckets.put_many(bus, "bots", values)


async def ledger(bus: Bus) -> list[Append]:
    lines = await read(bus, "FILLS", after_sequence=0)
    return [_append(line.data) for line in lines if subjects.about_user(line.subject)]


async def settled(bus: Bus) -> dict[str, list[str]]:
    """Each user's signals that were acted on (an order, or a refusal of the signal), in the order of the ledger."""
    found: dict[str, list[str]] = {}
    for line in await ledger(bus):
        for entry in line.entries:
            refused = isinstance(entry, Refusal) and entry.order_id is None
            if refused or (isinstance(entry, Intent) and entry.side is Side.BUY):
                found.setdefault(line.user, []).append(entry.signal_id)
    return found


def expected(numbers: int, users: Iterable[str] = USERS) -> dict[str, list[str]]:
    """What `settled` must be: each signal once, each user's in the order in which they were sent."""
    return {user: [f"{number:032x}:SNIPER:{user}" for number in range(numbers)] for user in users}


async def until_settled(bus: Bus, numbers: int) -> None:
    async def complete() -> bool:
        return sum(map(len, (await settled(bus)).values())) >= numbers * len(USERS)

    await eventually(complete, f"the outcomes of {numbers} decisions", 40.0)


class Running:
    """One bots process's insides, in this process but with its own connection."""

    def __init__(self, broker: Broker, instance: str) -> None:
        common = Common(nats_url=broker.url, partitions=PARTITIONS, instance=instance)
        log = Logger("bots", "json", "error", io.StringIO())
        self.process = Process("bots", common, log, {**FIGURES, **OWNING_FIGURES})
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.process.bus.open(self.process.common, "test-bots")
        self.fleet = Fleet(self.process, landing_ns=0, settle_ns=0)
        self.task = asyncio.create_task(self.fleet.run())

    @property
    def owned(self) -> set[int]:
        return set(self.fleet._owning.readers)

    def hold_lines(self, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
        """Users' lines are not stored until the second event is set; the first tells that some wait."""
        waiting, go_on = asyncio.Event(), asyncio.Event()
        append = self.process.bus.append

        async def held(messages: list[Out]) -> int:
            if not messages[0].subject.startswith("fills.~"):
                waiting.set()
                await go_on.wait()
            return await append(messages)

        monkeypatch.setattr(self.process.bus, "append", held)
        return waiting, go_on

    def silence(self) -> None:
        """Announce it no more."""
        for task in self.process._tasks:
            if task.get_name() == "announce":
                task.cancel()

    def figure(self, name: str) -> int:
        return sum(value for key, value in self.process.figures.items() if key.partition("{")[0] == name)

    async def stop(self) -> None:
        """In good order."""
        assert self.task is not None
        self.process.stop.set()
        await self.task

    async def kill(self) -> None:
        tasks = [task for task in (self.task, *self.process._tasks) if task is not None]
        while not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)
        await self.process.bus.close()


@contextlib.asynccontextmanager
async def fleet(broker: Broker, instance: str) -> AsyncIterator[Running]:
    running = Running(broker, instance)
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


async def shared(*fleets: Running) -> None:
    """Wait until each partition is worked on by exactly one of them, and each of them works."""

    def even() -> bool:
        owned = sorted(partition for each in fleets for partition in each.owned)
        return owned == list(range(PARTITIONS)) and all(each.owned and each.process.is_ready for each in fleets)

    await eventually(even, f"{len(fleets)} to share the partitions")


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[Bus]:
    from runtime.testing import bus as open_bus

    async with open_bus(broker, partitions=PARTITIONS) as opened:
        yield opened


# Within one process, where each step can be held


async def test_who_joins_takes_a_share_and_who_stops_hands_it_over(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS)
    async with fleet(broker, "a") as first:
        await shared(first)
        await tell(bus, 0)
        async with fleet(broker, "b") as second:
            await tell(bus, 1)
            await shared(first, second)
            await tell(bus, 2)
            await until_settled(bus, 3)
            await second.stop()
            assert await buckets.get(bus, "members", "bots.b") is None  # at once, not when its time is over
            await tell(bus, 3)
            await shared(first)
            await until_settled(bus, 4)
        assert first.fleet.book.users == len(USERS)
    assert await settled(bus) == expected(4)


async def test_an_owner_that_wakes_up_overtaken_is_refused_though_nobody_has_written_since(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has decided and sleeps before it stores; its successor has claimed, but not written for these users: only the
    ownership record tells the broker that the sleeper's view is of the past."""
    await configure(bus, *USERS)
    async with fleet(broker, "a") as sleeper:
        await shared(sleeper)
        asleep, wake = sleeper.hold_lines(monkeypatch)
        await tell(bus, 0)
        await asleep.wait()
        sleeper.silence()
        await buckets.delete(bus, "members", "bots.a")  # as when its time is over
        async with fleet(broker, "b") as successor:
            _, go_on = successor.hold_lines(monkeypatch)
            await shared(successor)
            assert await ledger(bus) == []
            wake.set()
            await eventually(lambda: sleeper.figure("interruptions_total") > 0, "it to be refused")
            assert await ledger(bus) == []
            go_on.set()
            await until_settled(bus, 1)
    assert await settled(bus) == expected(1)


async def test_positions_taken_over_are_ended_by_their_price(broker: Broker, bus: Bus) -> None:
    """The highest value before the hand-over counts: the successor reads the past trades of what it takes over."""
    users = USERS[:12]
    trailing = {"arm_percent": 10, "trail_percent": 10}
    await configure(bus, *users, tp_strategy=TakeProfit.TRAILING_STOP, tp_config=trailing)
    async with fleet(broker, "b") as successor:
        async with fleet(broker, "a") as first:
            await shared(first, successor)
            for number, user in enumerate(users):
                await bus.append([Out(f"signals.{user}", encode(addressed(user, number)))])
            books = (first.fleet.book, successor.fleet.book)
            await eventually(lambda: sum(book.holders.positions for book in books) == len(users), "all to be held")
            for sol in (60, 58):  # armed, and not yet far enough below
                await bus.append([Out(f"tokens.traded.M{n}", encode(trade(f"M{n}", sol))) for n in range(len(users))])

            def marked() -> bool:
                held = [p for book in books for a in book._accounts.values() for p in a.positions.values()]
                return len(held) == len(users) and all(position.peak_lamports for position in held)

            await eventually(marked, "the peaks to be seen")
            assert books[0].holders.positions > 0
            await first.stop()
        await shared(successor)
        await bus.append([Out(f"tokens.traded.M{n}", encode(trade(f"M{n}", 40))) for n in range(len(users))])

        async def all_sold() -> bool:
            entries = [entry for line in await ledger(bus) for entry in line.entries]
            sales = [entry.reason for entry in entries if isinstance(entry, Fill) and entry.side is Side.SELL]
            return sales == [Reason.TAKE_PROFIT] * len(users)

        await eventually(all_sold, "every position to be sold")
    orders = Counter(e.id for line in await ledger(bus) for e in line.entries if isinstance(e, Intent))
    assert set(orders.values()) == {1}


async def test_the_earlier_of_two_lives_of_one_instance_ends_and_says_why(broker: Broker, bus: Bus) -> None:
    async with fleet(broker, "a") as first:
        await shared(first)
        async with fleet(broker, "a") as second:
            await eventually(lambda: first.process._failure is not None, "the first to end")
            assert isinstance(first.process._failure, Replaced)
            assert "MINTLINE_INSTANCE" in str(first.process._failure)
            await first.kill()
            await shared(second)


async def test_a_broker_that_comes_back_finds_the_same_shares(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS)
    async with fleet(broker, "a") as first, fleet(broker, "b") as second:
        await shared(first, second)
        before = (first.owned, second.owned)
        await tell(bus, 0)
        broker.kill()
        await eventually(lambda: not bus.connected, "the loss to be noticed")
        broker.start()
        await bus.wait_connected()
        await tell(bus, 1)
        await until_settled(bus, 2)
        await shared(first, second)
        assert (first.owned, second.owned) == before
    assert await settled(bus) == expected(2)


# Real processes


class Processes:
    def __init__(self, make: Make, broker: Broker) -> None:
        self._make, self._broker = make, broker
        self._ports: dict[str, int] = {}
        self.running: dict[str, Service] = {}

    def start(self, *instances: str) -> None:
        for instance in instances:
            self._ports[instance] = free_port()
            self.running[instance] = self._make(
                "bots", MINTLINE_NATS_URL=self._broker.url, MINTLINE_PARTITIONS=str(PARTITIONS),
                MINTLINE_INSTANCE=instance, MINTLINE_HTTP_PORT=str(self._ports[instance]),
                MINTLINE_BOTS_LANDING_MS="0", MINTLINE_BOTS_SETTLE_MS="0",
            )  # fmt: skip
            self.running[instance].start()

    async def figure(self, instance: str, name: str) -> int:
        with contextlib.suppress(OSError, TimeoutError):
            text = (await fetch(f"http://127.0.0.1:{self._ports[instance]}/metrics", 2.0))[1].decode()
            values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"mintline_{name}")]
            return sum(int(float(value)) for value in values)
        return -1

    async def shared(self, *instances: str) -> None:
        async def all_owned() -> bool:
            owned = [await self.figure(instance, "partitions_owned") for instance in instances]
            return sum(owned) == PARTITIONS and min(owned) > 0

        await eventually(all_owned, f"{instances} to share the partitions", 40.0)


async def test_four_and_then_two_processes_under_load_keep_each_users_order(
    broker: Broker, bus: Bus, service: Make
) -> None:
    await configure(bus, *USERS)
    processes, told = Processes(service, broker), 0

    async def load(stop: asyncio.Event) -> None:
        nonlocal told
        while not stop.is_set():
            await tell(bus, told)
            told += 1
            await asyncio.sleep(0.02)  # the pace of the load, no wait for anything

    processes.start("p0")
    await processes.shared("p0")
    stop = asyncio.Event()
    loading = asyncio.create_task(load(stop))
    processes.start("p1", "p2", "p3")
    await processes.shared("p0", "p1", "p2", "p3")
    processes.running["p0"].signal(signals.SIGTERM)
    processes.running["p2"].kill()
    await processes.shared("p1", "p3")
    stop.set()
    await loading
    await until_settled(bus, told)
    assert processes.running["p0"].wait() == 0
    assert await settled(bus) == expected(told)


async def test_a_paused_process_is_overtaken_and_does_no_harm_when_it_goes_on(
    broker: Broker, bus: Bus, service: Make
) -> None:
    await configure(bus, *USERS)
    processes = Processes(service, broker)
    processes.start("p0", "p1")
    await processes.shared("p0", "p1")
    for number in range(20):
        await tell(bus, number)
    processes.running["p0"].signal(signals.SIGSTOP)
    for number in range(20, 40):
        await tell(bus, number)
    await processes.shared("p1")
    await until_settled(bus, 40)
    processes.running["p0"].signal(signals.SIGCONT)
    await processes.shared("p0", "p1")
    await tell(bus, 40)
    await until_settled(bus, 41)
    assert await settled(bus) == expected(41)
    assert await processes.figure("p0", "interruptions_total") >= 0  # it lives, and answers


def test_a_silent_member_is_gone_before_five_seconds() -> None:
    """What is left of the five is for claiming and folding."""
    assert TTL_S <= 3
