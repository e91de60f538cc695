"""bots against a real nats-server: what cannot be read is kept, and stops neither its user nor the rest."""

from __future__ import annotations

import pytest

from bots.testing import (
    SOL,
    configure,
    dead,
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
from runtime import buckets
from runtime.bus import Bus
from runtime.telemetry import now_ns
from runtime.testing import Broker, Proxy, eventually
from runtime.wire import Out
from schemas import subjects
from schemas.codec import encode
from schemas.events import Append, Fill, Origin, Reason, Side


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
    async with fleet(broker.url) as running:
        await send(bus, signal("a", 1))
        await bus.append([Out("signals.a", data)])
        await send(bus, signal("a", 2), signal("b", 2))
        (letter,) = await dead(bus, 1)
        await done(bus)
        assert running.figure("dead_letters_total") == 1
    assert (letter.source, letter.sequence, letter.payload) == ("SIGNALS", 2, data.decode())
    assert await outcomes(bus) == once([signal("a", 1), signal("a", 2), signal("b", 2)])


async def test_what_cannot_be_read_of_the_market_is_counted_and_the_rest_decides(broker: Broker, bus: Bus) -> None:
    """Its copies in DEAD are made by the stages that work on every event and every decision."""
    await configure(bus, "a", stop_loss_percent=40)
    async with fleet(broker.url) as running:
        await send(bus, signal("a", mint="M", lamports=60 * SOL))
        await done(bus)
        await bus.append([Out("tokens.traded.M", b"{nonsense")])
        await bus.append([Out(subjects.decision_subject(Origin.RUG_ALARM, "M"), b"{nonsense")])
        await happen(bus, trade("M", 0))
        await eventually(lambda: running.figure("dead_letters_total") == 2, "both to be counted")

        async def sold() -> bool:
            entries = [entry for line in await ledger(bus) for entry in line.entries]
            return [e.reason for e in entries if isinstance(e, Fill)] == [Reason.SIGNAL, Reason.STOP_LOSS]

        await eventually(sold, "the later price to end the position")


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
            await send(bus, signal("a", 1), signal("b", 1))
            await done(bus)
            if when == "while-running":
                await overtake(bus, "a", data)
                await send(bus, signal("a", 2), signal("b", 2))
                await done(bus)
            (letter,) = await dead(bus, 1)
            assert running.figure("interruptions_total") <= 2 + lost
            assert not proxy.armed
    assert (letter.source, letter.payload) == ("FILLS", data.decode())
    numbers = (1, 2) if when == "while-running" else (1,)
    assert await outcomes(bus, readable_only=True) == once([signal(user, n) for user in "ab" for n in numbers])


async def test_a_malformed_configuration_stops_that_bot_alone(broker: Broker, bus: Bus) -> None:
    await configure(bus, "a", "b")
    await buckets.put(bus, "bots", "a", b"{nonsense")
    revision = await configure(bus, "c", buy_sol=9)  # more than its budget
    async with fleet(broker.url) as running:
        await send(bus, *(signal(user, 1, revision=revision) for user in "abc"))
        await done(bus)
        assert running.figure("configs_refused_total") == 2
        assert running.process.figures["active_bots"] == 1
    reasons = {line.user: line.entries[-1].reason for line in await ledger(bus)}
    assert reasons == {"a": Reason.NOT_RUNNING, "b": Reason.SIGNAL, "c": Reason.NOT_RUNNING}
