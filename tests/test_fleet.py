"""bots against a real nats-server: one outcome for each signal and exits that happen, whatever interrupts them."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from bots import fleet as fleet_module
from bots.fleet import Fleet
from bots.owning import FIGURES as OWNING_FIGURES
from bots.telling import FIGURES
from runtime import buckets, wire
from runtime.bus import Bus
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Logger, now_ns
from runtime.testing import Broker, Proxy, eventually
from runtime.wire import Out, chunks
from schemas import curve, subjects
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import (
    Append,
    DeadLetter,
    Entry,
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
)  # fmt: skip
from schemas.ownership import Owner, owner_user

PARTITIONS = 4
SECOND = 1_000_000_000
SOL = 1_000_000_000

_append: Decoder[Append] = Decoder(Append)
_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


def market(lamports: int = 0) -> Market:
    """After others put this much into a fresh curve."""
    state = curve.quote_buy_sol(curve.FRESH, lamports).after if lamports else curve.FRESH
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=now_ns())


def signal(user: str, number: int = 0, *, mint: str = "", revision: int = 0, ttl_ns: int = 60 * SECOND) -> Signal:
    at_ns = now_ns()
    return Signal(
        id=f"{number:032x}:SNIPER:{user}", user=user, decision_id=f"{number:032x}:SNIPER", strategy=Origin.SNIPER,
        side=Side.BUY, mint=mint or f"M{number}", creator="c", score=90, risk=RiskLevel.LOW, reasons=(),
        arithmetic_known=True, market=market(20 * SOL), config_revision=revision,
        decided_at_ns=at_ns, expires_at_ns=at_ns + ttl_ns,
    )  # fmt: skip


def trade(mint: str, lamports: int) -> TokenTraded:
    state = market(lamports)
    return TokenTraded(
        id=f"{mint}{state.seen_at_ns}", mint=mint, signature="s", side=Side.SELL, trader="x", pool="pump", lamports=1,
        tokens=1, trader_tokens_after=None, market=state, pool_lamports=None, pool_tokens=None,
        seen_at_ns=state.seen_at_ns,
    )  # fmt: skip


async def tell(bus: Bus, *signals: Signal) -> None:
    for chunk in chunks([Out(f"signals.{each.user}", encode(each)) for each in signals]):
        await bus.append(chunk)


async def happen(bus: Bus, *events: TokenTraded) -> None:
    await bus.append([Out(subjects.token_subject(event), encode(event)) for event in events])


async def configure(bus: Bus, *users: str, running: bool = True, **config: Any) -> int:
    """The same configuration for each; the bucket's revision afterwards."""
    numbers = {name: Decimal(v) if name.endswith(("_sol", "_percent")) else v for name, v in config.items()}
    wanted = BotConfig(**{"strategy": Strategy.SNIPER, "tp_strategy": TakeProfit.FIXED, **numbers})
    state = Wanted.RUNNING if running else Wanted.STOPPED
    values = [(u, encode(BotWanted(user=u, wanted=state, config=wanted, changed_at_ns=now_ns()))) for u in users]
    await buckets.put_many(bus, "bots", values)
    return int((await bus.stream_info("KV_bots"))["state"]["last_seq"])


class Running:
    """One life of the bots, in this process but with its own connection."""

    def __init__(self, url: str, instance: str) -> None:
        common = Common(nats_url=url, partitions=PARTITIONS, instance=instance)
        self.process = Process(
            "bots", common, Logger("bots", "json", "error", io.StringIO()), {**FIGURES, **OWNING_FIGURES}
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.process.bus.open(self.process.common, "test-bots")
        self.fleet = Fleet(self.process, landing_ns=0, settle_ns=0)
        self.task = asyncio.create_task(self.fleet.run())

    async def kill(self) -> None:
        """As kill -9: nothing more is decided, stored or acknowledged."""
        tasks = [task for task in (self.task, *self.process._tasks) if task is not None]
        while not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()  # again and again: `wait_for` of Python 3.11 may swallow one
            await asyncio.wait(tasks, timeout=0.1)
        await self.process.bus.close()

    def figure(self, name: str) -> int:
        return sum(value for key, value in self.process.figures.items() if key.partition("{")[0] == name)


@contextlib.asynccontextmanager
async def fleet(url: str, instance: str = "0") -> AsyncIterator[Running]:
    running = Running(url, instance)
    await running.start()
    try:
        yield running
    finally:
        await running.kill()


async def ledger(bus: Bus) -> list[Append]:
    """Every line that can be read."""
    lines = []
    for message in filter(
        lambda message: subjects.about_user(message.subject), await read(bus, "FILLS", after_sequence=0)
    ):
        with contextlib.suppress(MalformedEvent):
            lines.append(_append(message.data))
    return lines


async def overtake(bus: Bus, user: str, data: bytes) -> int:
    """Somebody else takes the user's partition over and writes a line for the user. Its sequence."""
    theirs = Owner(partition=subjects.partition(user, PARTITIONS), instance="other", life="1", at_ns=now_ns())
    record = Out(subjects.fills_subject(owner_user(theirs.partition, PARTITIONS)), encode(theirs))
    return 1 + await bus.append([record, Out(subjects.fills_subject(user), data)])


async def outcomes(bus: Bus) -> Counter[str]:
    """How many outcomes each signal has."""
    entries = (entry for append in await ledger(bus) for entry in append.entries)
    return Counter(entry.signal_id for entry in entries if _settles(entry))


def _settles(entry: Entry) -> bool:
    return isinstance(entry, Refusal) or (isinstance(entry, Fill) and entry.side is Side.BUY)


async def done(bus: Bus, partitions: Iterable[int] = range(PARTITIONS)) -> None:
    """Wait until everything in SIGNALS is acknowledged."""

    async def all_acknowledged() -> bool:
        infos = [await bus.consumer_info("SIGNALS", f"p{partition}") for partition in partitions]
        return not any(info["num_pending"] or info["num_ack_pending"] for info in infos)

    await eventually(all_acknowledged, "the acknowledgement of all signals")


async def sold(bus: Bus, user: str) -> Reason:
    """Wait for a user's exit."""
    found: list[Reason] = []

    async def is_sold() -> bool:
        entries = (entry for append in await ledger(bus) if append.user == user for entry in append.entries)
        found.extend(entry.reason for entry in entries if isinstance(entry, Fill) and entry.side is Side.SELL)
        return bool(found)

    await eventually(is_sold, f"an exit of {user}")
    return found[0]


async def dead(bus: Bus, count: int) -> list[DeadLetter]:
    async def enough() -> bool:
        return int((await bus.stream_info("DEAD"))["state"]["messages"]) >= count

    await eventually(enough, f"{count} dead letters")
    return [_letter(message.data) for message in await read(bus, "DEAD", after_sequence=0)]


def once(signals: Iterable[Signal]) -> Counter[str]:
    return Counter(each.id for each in signals)


def many(users: Sequence[str], per_user: int, first: int = 0, mint: str = "") -> list[Signal]:
    return [signal(user, first + i, mint=mint) for i in range(per_user) for user in users]


USERS = [f"u{i}" for i in range(60)]


# A signal and its line


async def test_a_signal_becomes_one_line_on_the_users_subject(broker: Broker, bus: Bus) -> None:
    revision = await configure(bus, "alice")
    async with fleet(broker.url):
        await tell(bus, signal("alice", 1, revision=revision))
        await done(bus)
        await tell(bus, signal("alice", 2, revision=revision), signal("nobody", 2, revision=revision))
        await done(bus)
    messages = [each for each in await read(bus, "FILLS", after_sequence=0) if subjects.about_user(each.subject)]
    lines = [_append(message.data) for message in messages]
    assert messages[0].subject == subjects.stored_fills_subject("alice", PARTITIONS)
    assert (messages[0].headers or {})["traceparent"].split("-")[1] == f"{1:032x}"
    alice = [line for line in lines if line.user == "alice"]
    assert [line.id for line in alice] == ["alice:0", f"alice:{messages[0].sequence}"]
    assert [line.signal_sequence for line in alice] == [1, 2]
    assert [type(entry) for entry in alice[0].entries] == [Intent, Fill]
    (stranger,) = (line for line in lines if line.user == "nobody")
    assert stranger.entries[0].reason is Reason.NOT_RUNNING


async def test_an_expired_signal_is_refused_and_a_stopped_bot_takes_none(broker: Broker, bus: Bus) -> None:
    await configure(bus, "a")
    await configure(bus, "b", running=False)
    async with fleet(broker.url):
        await tell(bus, signal("a", 1, ttl_ns=-1), signal("b", 1))
        await done(bus)
    reasons = {line.user: line.entries[0].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.EXPIRED, "b": Reason.NOT_RUNNING}


async def test_a_signal_waits_for_the_configuration_that_it_was_matched_with(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "CONFIG_WAIT_S_MAX", 0.2)
    revision = await configure(bus, "a", running=False)
    async with fleet(broker.url) as running:
        await tell(bus, signal("a", 1, revision=revision + 1))
        await eventually(lambda: running.figure("interruptions_total") > 0, "the wait to be given up once")
        assert await ledger(bus) == []
        assert await configure(bus, "a") == revision + 1
        await done(bus)
    assert [line.entries[-1].reason for line in await ledger(bus)] == [Reason.SIGNAL]


async def test_a_signal_of_an_unknown_configuration_is_refused_at_its_expiry_and_blocks_nobody_for_longer(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "CONFIG_WAIT_S_MAX", 0.2)
    await configure(bus, "a", "b")
    async with fleet(broker.url):
        await tell(bus, signal("a", 1, revision=10**9, ttl_ns=SECOND), signal("b", 1))
        await done(bus)
    reasons = {line.user: line.entries[-1].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.EXPIRED, "b": Reason.SIGNAL}


async def test_a_price_that_comes_while_a_configuration_is_awaited_is_not_lost(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "CONFIG_WAIT_S_MAX", 0.2)
    await configure(bus, "a")
    async with fleet(broker.url) as running:
        await tell(bus, signal("a", 1))
        await done(bus)
        await tell(bus, signal("a", 2, revision=10**9, ttl_ns=2 * SECOND))
        await eventually(lambda: running.figure("interruptions_total") > 0, "the first wait")
        await happen(bus, trade("M1", 0))
        assert await sold(bus, "a") is Reason.STOP_LOSS


# Interruptions


@pytest.mark.parametrize("forwarded", [False, True], ids=["nothing-stored", "answer-lost"])
@pytest.mark.parametrize("times_before", [0, 4])  # batches of ten users; 60 users make at least six
async def test_a_connection_lost_in_a_group_loses_and_doubles_nothing(
    broker: Broker, bus: Bus, forwarded: bool, times_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(bus, *USERS)
    signals = many(USERS, 2)
    async with Proxy(broker) as proxy, fleet(proxy.url) as running:
        await eventually(lambda: running.process.is_ready, "the fleet to be ready")
        await tell(bus, *signals[:1])
        await done(bus)
        proxy.cut_at(b"Nats-Batch-Commit", forwarded=forwarded, times_before=times_before)
        monkeypatch.setattr(wire, "BATCH_MESSAGES_MAX", 10)
        await bus.append([Out(f"signals.{each.user}", encode(each)) for each in signals[1:11]])
        for start in range(11, len(signals), 10):
            await bus.append([Out(f"signals.{s.user}", encode(s)) for s in signals[start : start + 10]])
        await done(bus)
        assert not proxy.armed
        assert running.figure("interruptions_total") >= 1
    assert await outcomes(bus) == once(signals)


async def test_a_process_killed_between_storing_and_acknowledging_doubles_nothing(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS)
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"+ACK", forwarded=False)
        async with fleet(proxy.url):
            await tell(bus, *many(USERS, 2))
            await eventually(lambda: not proxy.armed, "the lost acknowledgement")
    assert (await outcomes(bus)).total() > 0
    async with fleet(broker.url) as second:
        await done(bus)
        assert second.figure("signals_repeated_total") > 0
    assert await outcomes(bus) == once(many(USERS, 2))


async def test_a_killed_broker_loses_and_doubles_nothing(broker: Broker, bus: Bus) -> None:
    await configure(bus, *USERS)
    async with fleet(broker.url):
        for round_ in range(3):
            await tell(bus, *many(USERS, 10, first=10 * round_))
            await eventually(lambda r=round_: _lines_at_least(bus, 60 * r + 1), "some lines")  # type: ignore[misc]
            with broker.stopped():
                await eventually(lambda: not bus.connected, "the loss to be noticed")
            await eventually(lambda: bus.connected, "the connection to be back")
        await done(bus)
    assert await outcomes(bus) == once(many(USERS, 30))


async def _lines_at_least(bus: Bus, count: int) -> bool:
    return int((await bus.stream_info("FILLS"))["state"]["messages"]) >= count


def refusal(of: Signal) -> Refusal:
    return Refusal(
        id=f"{of.id}:refused", signal_id=of.id, order_id=None, mint=of.mint, side=of.side, reason=Reason.BUDGET,
        detail="by somebody else", at_ns=now_ns(),
    )  # fmt: skip


@pytest.mark.parametrize("settles", [False, True], ids=["another-line", "the-same-signal"])
async def test_a_line_that_somebody_else_wrote_is_folded_before_anything_is_decided(
    broker: Broker, bus: Bus, settles: bool
) -> None:
    await configure(bus, "a", "b")
    async with fleet(broker.url) as running:
        await tell(bus, signal("a", 1), signal("b", 1))
        await done(bus)
        next_ = signal("a", 2)
        other = refusal(next_ if settles else signal("a", 99))
        line = Append(
            id="a:x", user="a", signal_sequence=3 if settles else 0, entries=(other,), at_ns=now_ns()
        )  # fmt: skip
        sequence = await overtake(bus, "a", encode(line))
        await tell(bus, next_, signal("b", 2))
        await done(bus)
        assert running.process.figures["interruptions_total{kind=WrongSequence}"] == 1
    found = await outcomes(bus)
    assert found == once(
        [signal("a", 1), signal("b", 1), next_, signal("b", 2), *([] if settles else [signal("a", 99)])]
    )
    written = [line for line in await ledger(bus) if line.user == "a"]
    assert len(written) == (2 if settles else 3)
    assert settles or written[-1].id == f"a:{sequence}"


# Restarts with open positions


async def test_a_restart_ends_open_positions_by_time_and_by_price(broker: Broker, bus: Bus) -> None:
    await configure(bus, "timed", tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 1}, stop_loss_percent=100)
    await configure(bus, "stopped", "missed")
    async with fleet(broker.url):
        await happen(bus, trade("M1", 20 * SOL))  # a price must be known for an exit by time
        await tell(bus, signal("timed", 1), signal("stopped", 2), signal("missed", 3))
        await done(bus)
    assert {line.entries[-1].reason for line in await ledger(bus)} == {Reason.SIGNAL}
    await happen(bus, trade("M3", 0))  # while nobody looks
    async with fleet(broker.url) as second:
        await eventually(lambda: second.process.is_ready, "the fleet to be ready")
        assert await sold(bus, "missed") is Reason.STOP_LOSS
        assert await sold(bus, "timed") is Reason.TIME_EXIT
        await happen(bus, trade("M2", 0))
        assert await sold(bus, "stopped") is Reason.STOP_LOSS
        assert second.fleet.book.holders.positions == 0


async def test_an_exit_whose_answer_is_lost_happens_once(broker: Broker, bus: Bus) -> None:
    await configure(bus, "a")
    async with Proxy(broker) as proxy, fleet(proxy.url) as running:
        await tell(bus, signal("a", 1))
        await done(bus)
        for forwarded in (False, True):
            proxy.cut_at(b"HPUB fills.a ", forwarded=forwarded)
            number = 2 + forwarded
            await tell(bus, signal("a", number))
            await done(bus)
            assert not proxy.armed
            proxy.cut_at(b"HPUB fills.a ", forwarded=forwarded)
            await happen(bus, trade(f"M{number}", 0))
            await eventually(lambda n=number: f"M{n}" not in running.fleet.book.holders.held, "the exit")  # type: ignore[misc]
            assert not proxy.armed
    fills = [entry for line in await ledger(bus) for entry in line.entries if isinstance(entry, Fill)]
    assert Counter((fill.mint, fill.side) for fill in fills) == Counter(
        [("M1", Side.BUY), *((mint, side) for mint in ("M2", "M3") for side in Side)]
    )


async def test_the_watch_bucket_follows_what_is_held(broker: Broker, bus: Bus) -> None:
    await configure(bus, "a", "b")

    async def watched(*keys: str) -> bool:
        messages = await read(bus, "KV_watch", last_per_subject=True)
        changes = [buckets.change(message) for message in messages]
        return {change.key for change in changes if change.data is not None} == set(keys)

    async with fleet(broker.url, instance="x"):
        await tell(bus, signal("a", 1), signal("b", 1), signal("b", 2))
        await eventually(lambda: watched("bots-x.M1", "bots-x.M2"), "entries for both mints")
        await happen(bus, trade("M2", 0))
        await eventually(lambda: watched("bots-x.M1"), "the entry of the mint that nobody holds to go")
    async with fleet(broker.url, instance="y"):  # nothing happens, but what is held is known
        await eventually(lambda: watched("bots-x.M1", "bots-y.M1"), "the entry of the next process")


# What cannot be read


@pytest.mark.parametrize(
    "data",
    [
        b"{nonsense",
        encode(trade("M", 0)),  # another kind of message
        encode(signal("b", 1)),  # on a's subject
    ],
)
async def test_a_malformed_signal_goes_to_dead_and_the_rest_goes_on(broker: Broker, bus: Bus, data: bytes) -> None:
    await configure(bus, "a", "b")
    async with fleet(broker.url):
        await tell(bus, signal("a", 1))
        await bus.append([Out("signals.a", data)])
        await tell(bus, signal("a", 2), signal("b", 2))
        (letter,) = await dead(bus, 1)
        await done(bus)
    assert (letter.source, letter.sequence, letter.payload) == ("SIGNALS", 2, data.decode())
    assert await outcomes(bus) == once([signal("a", 1), signal("a", 2), signal("b", 2)])


def senseless(user: str) -> Append:
    """Sells what is not held."""
    fill = Fill(
        id="x:fill", order_id="x", signal_id="x", mint="Q", side=Side.SELL, tokens=5, lamports=5, curve_lamports=5,
        protocol_fee_lamports=0, creator_fee_lamports=0, network_fee_lamports=0,
        reason=Reason.STOP_LOSS, price_at_ns=1, at_ns=now_ns(),
    )  # fmt: skip
    return Append(id=f"{user}:x", user=user, signal_sequence=0, entries=(fill,), at_ns=now_ns())


@pytest.mark.parametrize("when", ["before-the-start", "while-running"])
@pytest.mark.parametrize(
    "data",
    [
        b"{nonsense",
        encode(senseless("a")),
        encode(senseless("b")),  # another user's, on a's subject
    ],
)
@pytest.mark.parametrize("lost", [False, True], ids=["", "letter-lost"])
async def test_a_malformed_line_goes_to_dead_and_stops_neither_its_user_nor_the_rest(
    broker: Broker, bus: Bus, data: bytes, when: str, lost: bool
) -> None:
    await configure(bus, "a", "b")
    async with Proxy(broker) as proxy:
        if lost:
            proxy.cut_at(b"dead.FILLS.bots", forwarded=False)
        if when == "before-the-start":
            await bus.append([Out("fills.a", data)])
        async with fleet(proxy.url) as running:
            await tell(bus, signal("a", 1), signal("b", 1))
            await done(bus)
            if when == "while-running":
                await overtake(bus, "a", data)
                await tell(bus, signal("a", 2), signal("b", 2))
                await done(bus)
            (letter,) = await dead(bus, 1)
            assert running.figure("interruptions_total") <= 2 + lost
            assert not proxy.armed
    assert (letter.source, letter.payload) == ("FILLS", data.decode())
    numbers = (1, 2) if when == "while-running" else (1,)
    assert await outcomes(bus) == once([signal(user, n) for user in "ab" for n in numbers])


async def test_a_malformed_configuration_stops_that_bot_alone(broker: Broker, bus: Bus) -> None:
    await configure(bus, "a", "b")
    await buckets.put(bus, "bots", "a", b"{nonsense")
    revision = await configure(bus, "c", buy_sol=9)  # more than its budget
    async with fleet(broker.url) as running:
        await tell(bus, *(signal(user, 1, revision=revision) for user in "abc"))
        await done(bus)
        assert running.figure("configs_refused_total") == 2
        assert running.process.figures["active_bots"] == 1
    reasons = {line.user: line.entries[-1].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.NOT_RUNNING, "b": Reason.SIGNAL, "c": Reason.NOT_RUNNING}
