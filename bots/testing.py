"""What tests of the bots share: signals and trades to send, the ledger to read, and a whole fleet in the process of the
test, where each step of it can be held."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from decimal import Decimal

from bots.fleet import Fleet
from bots.owning import FIGURES as OWNING_FIGURES
from bots.telling import FIGURES
from runtime import buckets
from runtime.bus import Bus
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Logger, now_ns
from runtime.testing import eventually
from runtime.wire import Out, chunks
from schemas import curve, subjects
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import Append, Intent, Market, Origin, Refusal, RiskLevel, Side, Signal, Strategy, TokenTraded

SECOND_NS = 1_000_000_000
SETTLED_S_MAX = 40.0

_append: Decoder[Append] = Decoder(Append)


def market(sol: int = 20) -> Market:
    """After others put this much into a fresh curve."""
    state = curve.quote_buy_sol(curve.FRESH, sol * SECOND_NS).after
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=now_ns())


def addressed(user: str, number: int) -> Signal:
    """The `number`-th decision's signal, about a coin of its own."""
    at_ns = now_ns()
    return Signal(
        id=f"{number:032x}:SNIPER:{user}", user=user, decision_id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER,
        side=Side.BUY, mint=f"M{number}", creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True,
        market=market(), config_revision=0, decided_at_ns=at_ns, expires_at_ns=at_ns + 60 * SECOND_NS,
    )  # fmt: skip


def trade(mint: str, sol: int) -> TokenTraded:
    state = market(sol)
    return TokenTraded(
        id=f"{mint}{state.seen_at_ns}", mint=mint, signature="s", side=Side.SELL, trader="x", pool="pump", lamports=1,
        tokens=1, trader_tokens_after=None, market=state, pool_lamports=None, pool_tokens=None,
        seen_at_ns=state.seen_at_ns,
    )  # fmt: skip


async def tell(bus: Bus, number: int, users: Iterable[str]) -> None:
    """One decision's signals."""
    for chunk in chunks([Out(f"signals.{user}", encode(addressed(user, number))) for user in users]):
        await bus.append(chunk)


async def configure(bus: Bus, *users: str, **config: object) -> None:
    """Running bots that take every coin and keep it, unless `config` says otherwise."""
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


def expected(numbers: int, users: Iterable[str]) -> dict[str, list[str]]:
    """What `settled` must be: each signal once, each user's in the order in which they were sent."""
    return {user: [f"{number:032x}:SNIPER:{user}" for number in range(numbers)] for user in users}


async def until_settled(bus: Bus, numbers: int, users: Sequence[str]) -> None:
    async def complete() -> bool:
        return sum(map(len, (await settled(bus)).values())) >= numbers * len(users)

    await eventually(complete, f"the outcomes of {numbers} decisions", SETTLED_S_MAX)


class Running:
    """One bots process's insides, in this process but with its own connection."""

    def __init__(self, url: str, partitions: int, instance: str) -> None:
        common = Common(nats_url=url, partitions=partitions, instance=instance)
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

    def hold_lines(self, setattr: Callable[[object, str, object], None]) -> tuple[asyncio.Event, asyncio.Event]:
        """Users' lines are not stored until the second event is set; the first tells that some wait.

        setattr: pytest's monkeypatch.setattr.
        """
        waiting, go_on = asyncio.Event(), asyncio.Event()
        append = self.process.bus.append

        async def held(messages: list[Out]) -> int:
            if not messages[0].subject.startswith("fills.~"):
                waiting.set()
                await go_on.wait()
            return await append(messages)

        setattr(self.process.bus, "append", held)
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
        """As kill -9: nothing more is decided, stored or acknowledged."""
        tasks = [task for task in (self.task, *self.process._tasks) if task is not None]
        while not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()  # again and again: somebody may swallow one
            await asyncio.wait(tasks, timeout=0.1)
        await self.process.bus.close()


@contextlib.asynccontextmanager
async def fleet(url: str, partitions: int, instance: str = "0") -> AsyncIterator[Running]:
    running = Running(url, partitions, instance)
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


async def shared(partitions: int, *fleets: Running) -> None:
    """Wait until each partition is worked on by exactly one of them, and each of them works."""

    def even() -> bool:
        owned = sorted(partition for each in fleets for partition in each.owned)
        return owned == list(range(partitions)) and all(each.owned and each.process.is_ready for each in fleets)

    await eventually(even, f"{len(fleets)} to share the partitions")
