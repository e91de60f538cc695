"""bots against a real nats-server: one outcome for each signal and exits that happen, whatever interrupts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from bots import fleet as fleet_module
from bots.testing import (
    PARTITIONS,
    SECOND_NS,
    SOL,
    configure,
    done,
    fleet,
    happen,
    ledger,
    once,
    outcomes,
    overtake,
    send,
    signal,
    trade,
)
from runtime import buckets, wire
from runtime.bus import Bus
from runtime.readers import read
from runtime.telemetry import now_ns
from runtime.testing import Broker, Proxy, eventually
from runtime.wire import Out
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.config import TakeProfit
from schemas.events import Append, Fill, Intent, Reason, Refusal, Side, Signal

_append: Decoder[Append] = Decoder(Append)


async def sold(bus: Bus, user: str) -> Reason:
    """Wait for a user's exit."""
    found: list[Reason] = []

    async def is_sold() -> bool:
        entries = (entry for append in await ledger(bus) if append.user == user for entry in append.entries)
        found.extend(entry.reason for entry in entries if isinstance(entry, Fill) and entry.side is Side.SELL)
        return bool(found)

    await eventually(is_sold, f"an exit of {user}")
    return found[0]


def many(users: Sequence[str], per_user: int, first: int = 0, mint: str = "") -> list[Signal]:
    return [signal(user, first + i, mint=mint) for i in range(per_user) for user in users]


USERS = [f"u{i}" for i in range(60)]


# A signal and its line


async def test_a_signal_becomes_one_line_on_the_users_subject(broker: Broker, bus: Bus) -> None:
    revision = await configure(bus, "alice")
    async with fleet(broker.url):
        await send(bus, signal("alice", 1, revision=revision))
        await done(bus)
        await send(bus, signal("alice", 2, revision=revision), signal("nobody", 2, revision=revision))
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
        await send(bus, signal("a", 1, ttl_ns=-1), signal("b", 1))
        await done(bus)
    reasons = {line.user: line.entries[0].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.EXPIRED, "b": Reason.NOT_RUNNING}


async def test_a_signal_waits_for_the_configuration_that_it_was_matched_with(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "CONFIG_WAIT_S_MAX", 0.2)
    revision = await configure(bus, "a", running=False)
    async with fleet(broker.url) as running:
        await send(bus, signal("a", 1, revision=revision + 1))
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
        await send(bus, signal("a", 1, revision=10**9, ttl_ns=SECOND_NS), signal("b", 1))
        await done(bus)
    reasons = {line.user: line.entries[-1].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.EXPIRED, "b": Reason.SIGNAL}


async def test_a_price_that_comes_while_a_configuration_is_awaited_is_not_lost(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "CONFIG_WAIT_S_MAX", 0.2)
    await configure(bus, "a")
    async with fleet(broker.url) as running:
        await send(bus, signal("a", 1))
        await done(bus)
        await send(bus, signal("a", 2, revision=10**9, ttl_ns=2 * SECOND_NS))
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
        await send(bus, *signals[:1])
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
            await send(bus, *many(USERS, 2))
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
            await send(bus, *many(USERS, 10, first=10 * round_))
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
        await send(bus, signal("a", 1), signal("b", 1))
        await done(bus)
        next_ = signal("a", 2)
        other = refusal(next_ if settles else signal("a", 99))
        line = Append(
            id="a:x", user="a", signal_sequence=3 if settles else 0, entries=(other,), at_ns=now_ns()
        )  # fmt: skip
        sequence = await overtake(bus, "a", encode(line))
        await send(bus, next_, signal("b", 2))
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
        await send(bus, signal("timed", 1), signal("stopped", 2), signal("missed", 3))
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
        await send(bus, signal("a", 1))
        await done(bus)
        for forwarded in (False, True):
            proxy.cut_at(b"HPUB fills.a ", forwarded=forwarded)
            number = 2 + forwarded
            await send(bus, signal("a", number))
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
        await send(bus, signal("a", 1), signal("b", 1), signal("b", 2))
        await eventually(lambda: watched("bots-x.M1", "bots-x.M2"), "entries for both mints")
        await happen(bus, trade("M2", 0))
        await eventually(lambda: watched("bots-x.M1"), "the entry of the mint that nobody holds to go")
    async with fleet(broker.url, instance="y"):  # nothing happens, but what is held is known
        await eventually(lambda: watched("bots-x.M1", "bots-y.M1"), "the entry of the next process")
