"""What tests of the bots share: markets, signals and trades to send, the ledger to read, a book without a fleet, and a
whole fleet in the process of the test, where each step of it can be held."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from bots.book import Book
from bots.fleet import Fleet
from bots.group import Arrived, Group
from bots.owning import FIGURES as OWNING_FIGURES
from bots.positions import Account
from bots.telling import FIGURES
from runtime import buckets
from runtime.bus import Bus
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import now_ns
from runtime.testing import Life, drained, eventually
from runtime.wire import Out, chunks
from schemas import curve, subjects
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import (
    Append,
    DeadLetter,
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
    TokenEvent,
    TokenTraded,
)
from schemas.ownership import Owner, owner_user

SECOND_NS = 1_000_000_000
SOL = 1_000_000_000
SETTLED_S_MAX = 40.0
PARTITIONS = 4  # unless a test says otherwise

# Of a bot that takes every coin and keeps it.
KEEPING: dict[str, Any] = {
    "tp_config": {"percent": 10_000}, "max_open_positions": 100, "max_entries_per_hour": 3_600, "budget_sol": 1_000,
    "stop_loss_percent": 100,
}  # fmt: skip

_append: Decoder[Append] = Decoder(Append)
_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


# What happens


def market(lamports: int, at_ns: int) -> Market:
    """After others put this much into a fresh curve."""
    state = curve.quote_buy_sol(curve.FRESH, lamports).after if lamports else curve.FRESH
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def trade(mint: str, lamports: int, at_ns: int | None = None) -> TokenTraded:
    """After it, others have put this much into the coin's curve. at_ns: None for now."""
    at_ns = now_ns() if at_ns is None else at_ns
    return TokenTraded(
        id=f"t{mint}{lamports}{at_ns}", mint=mint, signature="s", side=Side.BUY, trader="x", pool="pump", lamports=1,
        tokens=1, trader_tokens_after=None, market=market(lamports, at_ns), pool_lamports=None, pool_tokens=None,
        seen_at_ns=at_ns,
    )  # fmt: skip


def signal(
    user: str, number: int = 0, *, mint: str = "", side: Side = Side.BUY, revision: int = 0,
    at_ns: int | None = None, ttl_ns: int = 60 * SECOND_NS, lamports: int = 20 * SOL,
) -> Signal:  # fmt: skip
    """The `number`-th decision's, about a coin of its own or `mint`. at_ns: None for now. lamports: as of `market`."""
    at_ns = now_ns() if at_ns is None else at_ns
    return Signal(
        id=f"{number:032x}:SNIPER:{user}", user=user, decision_id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER,
        side=side, mint=mint or f"M{number}", creator="c", score=90, risk=RiskLevel.LOW, reasons=(),
        arithmetic_known=True, market=market(lamports, at_ns), config_revision=revision,
        decided_at_ns=at_ns, expires_at_ns=at_ns + ttl_ns,
    )  # fmt: skip


def wanted(user: str, *, running: bool = True, at_ns: int | None = None, **config: Any) -> BotWanted:
    """A sniper with a fixed take profit, unless `config` says otherwise. at_ns: None for now."""
    fields: dict[str, Any] = {"strategy": Strategy.SNIPER, "tp_strategy": TakeProfit.FIXED}
    for name, value in config.items():
        fields[name] = Decimal(value) if name.endswith(("_sol", "_percent")) else value
    return BotWanted(
        user=user, wanted=Wanted.RUNNING if running else Wanted.STOPPED, config=BotConfig(**fields),
        changed_at_ns=now_ns() if at_ns is None else at_ns,
    )  # fmt: skip


# To the broker


async def send(bus: Bus, *signals: Signal) -> None:
    for chunk in chunks([Out(f"signals.{each.user}", encode(each)) for each in signals]):
        await bus.append(chunk)


async def tell(bus: Bus, number: int, users: Iterable[str], ttl_ns: int = 60 * SECOND_NS) -> None:
    """One decision's signals."""
    await send(bus, *(signal(user, number, ttl_ns=ttl_ns) for user in users))


async def happen(bus: Bus, *events: TokenEvent) -> None:
    await bus.append([Out(subjects.token_subject(event), encode(event)) for event in events])


async def configure(bus: Bus, *users: str, running: bool = True, **config: Any) -> int:
    """The same configuration for each; the bucket's revision afterwards."""
    wishes = [(user, encode(wanted(user, running=running, **config))) for user in users]
    await buckets.put_many(bus, "bots", wishes)
    return int((await bus.stream_info("KV_bots"))["state"]["last_seq"])


async def overtake(bus: Bus, user: str, data: bytes, partitions: int = PARTITIONS) -> int:
    """Somebody else takes the user's partition over and writes a line for the user. Its sequence."""
    theirs = Owner(partition=subjects.partition(user, partitions), instance="other", life="1", at_ns=now_ns())
    record = Out(subjects.fills_subject(owner_user(theirs.partition, partitions)), encode(theirs))
    return 1 + await bus.append([record, Out(subjects.fills_subject(user), data)])


# From the broker


async def ledger(bus: Bus, *, readable_only: bool = False) -> list[Append]:
    """Every user's lines. Raises MalformedEvent, unless what cannot be read is to be left out."""
    lines, left_out = [], (MalformedEvent,) if readable_only else ()
    for message in await read(bus, "FILLS", after_sequence=0):
        if subjects.about_user(message.subject):
            with contextlib.suppress(*left_out):
                lines.append(_append(message.data))
    return lines


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


async def outcomes(bus: Bus, *, readable_only: bool = False) -> Counter[str]:
    """How many outcomes each signal has: a purchase, or a refusal of the signal or of its order."""
    entries = (entry for line in await ledger(bus, readable_only=readable_only) for entry in line.entries)
    return Counter(
        entry.signal_id
        for entry in entries
        if isinstance(entry, Refusal) or (isinstance(entry, Fill) and entry.side is Side.BUY)
    )


def once(signals: Iterable[Signal]) -> Counter[str]:
    """What `outcomes` must be."""
    return Counter(each.id for each in signals)


async def done(bus: Bus, partitions: int = PARTITIONS) -> None:
    """Wait until everything in SIGNALS is acknowledged."""
    await drained(bus, map(subjects.partition_consumer, range(partitions)))


async def dead(bus: Bus, count: int) -> list[DeadLetter]:
    """Wait for so many letters."""

    async def enough() -> bool:
        return int((await bus.stream_info("DEAD"))["state"]["messages"]) >= count

    await eventually(enough, f"{count} dead letters")
    return [_letter(message.data) for message in await read(bus, "DEAD", after_sequence=0)]


# A book without a fleet: orders land as they are decided

NOW = 1_750_000_000 * SECOND_NS


def asked(user: str, mint: str = "M", at_ns: int = NOW, side: Side = Side.BUY, n: int = 0) -> Signal:
    """A signal about a fresh coin. n: tells decisions about one mint apart."""
    found = signal(user, mint=mint, side=side, revision=1, at_ns=at_ns, ttl_ns=30 * SECOND_NS, lamports=0)
    return msgspec.structs.replace(found, id=f"d{n}:{mint}:{user}:{side}", decision_id=f"d{n}:{mint}")


def arrive(*signals: Signal, first: int = 1) -> list[Arrived]:
    return [Arrived(each, sequence) for sequence, each in enumerate(signals, first)]


def book_of(*users: str, **config: Any) -> Book:
    book = Book(landing_ns=0)
    for revision, user in enumerate(users, 1):
        assert book.configure(user, wanted(user, at_ns=NOW, **config), revision, NOW) is None
    return book


def decide(book: Book, events: list[Any], signals: list[Arrived], now_ns: int) -> Group:
    """Everything up to now at once."""
    for event in events:
        book.hear(event)
    return book.act(signals, now_ns, now_ns)


def answers(group: Group) -> list[Reason]:
    """What came of orders and signals."""
    return [e.reason for user in group.entries.values() for e in user if not isinstance(e, Intent)]


def store(book: Book, group: Group) -> None:
    """As when the broker has taken the whole group."""
    last = max((account.last_sequence for account in book._accounts.values()), default=0)
    book.settle(group, group.drafts, 1 + last)
    book.undo(group)  # what the fleet does after each group: nothing is left to undo


def holding(*users: str, **config: Any) -> Book:
    """Each has bought M."""
    book = book_of(*users, **config)
    group = decide(book, [], arrive(*(asked(user) for user in users)), NOW)
    assert answers(group) == [Reason.SIGNAL] * len(users)
    store(book, group)
    return book


def state(book: Book) -> Any:
    """All that decisions and answers depend on, without the bookkeeping of undoing. Empty accounts count as none."""
    accounts = {user: msgspec.to_builtins(a) for user, a in book._accounts.items() if a != Account()}
    held = {mint: sorted(users) for mint, users in book.holders._users.items()}
    holders = book.holders
    assert (holders.positions, holders.orders) == (sum(map(len, held.values())), sum(holders._orders.values()))
    prices = {mint: book.prices.get(mint) for mint in ("A", "B", "C", "M")}
    return accounts, held, prices, set(book.prices._held), set(book.agenda._due_at)


# A fleet


class Running(Life):
    """One bots process's insides."""

    def __init__(self, url: str, partitions: int, instance: str) -> None:
        common = Common(nats_url=url, partitions=partitions, instance=instance)
        super().__init__("bots", common, {**FIGURES, **OWNING_FIGURES})

    async def start(self) -> None:
        await self.open()
        self.fleet = Fleet(self.process, landing_ns=0, settle_ns=0)
        self.work(self.fleet.run())

    @property
    def owned(self) -> set[int]:
        return set(self.fleet._owning.readers)

    def hold_lines(self, setattr: Callable[[object, str, object], None]) -> tuple[asyncio.Event, asyncio.Event]:
        """`hold` for the lines of users."""
        return self.hold(lambda messages: not messages[0].subject.startswith("fills.~"), setattr)


@contextlib.asynccontextmanager
async def fleet(url: str, partitions: int = PARTITIONS, instance: str = "0") -> AsyncIterator[Running]:
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
