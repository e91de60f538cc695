"""Users without a signal: no task, no timer, no subscription, hardly any memory; and one more user is in at once."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bots import fleet
from bots.book import Book
from bots.owning import FIGURES as OWNING_FIGURES
from bots.telling import FIGURES as BOTS_FIGURES
from bots.testing import SOL, market
from dispatch import __main__ as dispatch
from dispatch.preferences import Preferences
from observer.figures import OWN as OBSERVER_FIGURES
from observer.poll import ObserverSettings, Poll
from observer.tally import Tally
from portal.demo import demo_users
from portal.enrol import enrol
from runtime import buckets
from runtime.bus import Bus
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import now_ns
from runtime.testing import Broker, Life, Service, bus, eventually
from runtime.web import fetch
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import Append, Decision, Fill, Origin, RiskLevel, Side, Signal, Strategy

USERS = 10_000
PARTITIONS = 32
# The user's name and its place in a table; measured: 76 to 110.
BYTES_A_USER_MAX = 150

_append: Decoder[Append] = Decoder(Append)
_signal: Decoder[Signal] = Decoder(Signal)
_wanted: Decoder[BotWanted] = Decoder(BotWanted)


def bodies(users: int) -> list[tuple[str, bytes]]:
    """As they lie in the bucket: decoded again by each process, so nothing is shared from the start."""
    return [
        (user, encode(BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=now_ns())))
        for user, config in demo_users(users)
    ]


def into_book() -> Callable[[str, bytes, int], object]:
    book = Book()
    return lambda user, body, revision: book.configure(user, _wanted(body), revision, 1)


def into_index() -> Callable[[str, bytes, int], object]:
    index = Preferences()
    return lambda user, body, revision: index.apply(user, _wanted(body), revision)


def into_tally() -> Callable[[str, bytes, int], object]:
    tally = Tally()
    return lambda user, body, revision: tally.wanted(user, _wanted(body), revision)


@pytest.mark.parametrize("make", [into_book, into_index, into_tally])
def test_a_user_without_a_signal_is_a_name_and_a_place_in_a_table(
    make: Callable[[], Callable[[str, bytes, int], object]],
) -> None:
    enrolled = bodies(USERS)
    fold = make()
    fold("first", enrolled[0][1], 0)
    tracemalloc.start()
    try:
        for revision, (user, body) in enumerate(enrolled, 1):
            fold(f" {user}"[1:], body, revision)  # a name of its own, as one cut out of a subject
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{make.__name__}: {taken / USERS:.0f} bytes a user")
    assert taken / USERS < BYTES_A_USER_MAX


@asynccontextmanager
async def processes(broker: Broker, tmp_path: Path) -> AsyncIterator[list[Process]]:
    """The insides of dispatch, bots and observer, each with its own connection, in this process."""
    figures = {"dispatch": dispatch.FIGURES, "bots": {**BOTS_FIGURES, **OWNING_FIGURES}, "observer": OBSERVER_FIGURES}
    common = Common(nats_url=broker.url, partitions=PARTITIONS, data_dir=str(tmp_path))
    lives = [Life(name, common, known) for name, known in figures.items()]
    made = [life.process for life in lives]
    try:
        for life in lives:
            await life.open()
        of_dispatch, of_bots, of_observer = made
        poll = Poll(of_observer, ObserverSettings())
        await poll.serve()
        lives[0].work(dispatch.main(of_dispatch, dispatch.DispatchSettings()))
        lives[1].work(fleet.Fleet(of_bots, landing_ns=0, settle_ns=0).run())
        lives[2].work(poll.fold())
        yield made
    finally:
        for life in lives:
            await life.kill()


async def existing(broker: Broker, users: int, made: list[Process]) -> dict[str, int]:
    """What there is of each kind once every process knows the users."""

    def known() -> bool:
        return [p.figures.get("users", p.figures.get("active_bots")) for p in made] == [users] * len(made)

    await eventually(known, f"{users} users to be known")
    _, body = await fetch(f"http://127.0.0.1:{broker.monitor_port}/varz", 5.0)
    loop = asyncio.get_running_loop()
    return {
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not timer.cancelled() for timer in loop._scheduled),  # type: ignore[attr-defined]
        "subscriptions": json.loads(body)["subscriptions"],
    }


async def test_users_have_no_task_no_timer_and_no_subscription(broker: Broker, tmp_path: Path) -> None:
    common = Common(nats_url=broker.url, partitions=PARTITIONS)
    async with bus(broker, partitions=PARTITIONS), processes(broker, tmp_path) as made:
        await enrol(common, demo_users(10))
        await eventually(lambda: made[0].is_ready and made[1].is_ready, "dispatch and bots to be ready")
        few = await existing(broker, 10, made)
        await enrol(common, demo_users(1_000))
        many = await existing(broker, 1_000, made)
    print(few, many)
    assert min(few.values()) > 0
    # Some come and go whoever is there.
    assert all(many[kind] - few[kind] < 50 for kind in few)


def decision(number: int) -> Decision:
    at_ns = now_ns()
    return Decision(
        id=f"{number:032x}:GRADUATION", strategy=Origin.GRADUATION, side=Side.BUY, mint=f"M{number}", creator="c",
        score=90, previous_score=-1, risk=RiskLevel.LOW, reasons=(), features={}, arithmetic_known=True,
        market=market(20 * SOL, at_ns), decided_at_ns=at_ns,
    )  # fmt: skip


async def test_a_user_who_is_added_to_ten_thousand_is_served_at_once(
    broker: Broker, service: Callable[..., Service]
) -> None:
    """Its first fill comes of a decision that was made just after its wish was stored."""
    config = BotConfig(strategy=Strategy.GRADUATION, min_score=0, tp_strategy=TakeProfit.FIXED)
    async with bus(broker, partitions=PARTITIONS) as connection:
        await enrol(Common(nats_url=broker.url, partitions=PARTITIONS), demo_users(USERS))
        for name in ("dispatch", "bots"):
            service(
                name, MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS=str(PARTITIONS),
                MINTLINE_BOTS_LANDING_MS="0", MINTLINE_BOTS_SETTLE_MS="0",
            ).start()  # fmt: skip
        await connection.publish("decisions.GRADUATION.M0", encode(decision(0)))

        async def dispatched() -> bool:
            info = await connection.consumer_info("DECISIONS", "dispatch")
            return int(info["ack_floor"]["stream_seq"]) == 1

        await eventually(dispatched, "dispatch to be at work")
        assert await read(connection, "SIGNALS", after_sequence=0) == []
        wish = BotWanted(user="late", wanted=Wanted.RUNNING, config=config, changed_at_ns=now_ns())
        revision = await buckets.put(connection, "bots", "late", encode(wish))
        stored_s, number = time.monotonic(), 0

        async def filled() -> bool:
            nonlocal number
            number += 1
            await connection.publish(f"decisions.GRADUATION.M{number}", encode(decision(number)))
            return await fill_of("late", connection) is not None

        await eventually(filled, "the new user's fill")
        took_s = time.monotonic() - stored_s
        fill = await fill_of("late", connection)
        (first, *_) = await read(connection, "SIGNALS", after_sequence=0)
    assert fill is not None
    signal = _signal(first.data)
    assert (signal.user, signal.config_revision) == ("late", revision)
    print(f"from the stored wish to the fill: {took_s * 1000:.0f} ms, of decision {int(fill.mint[1:])} of {number}")


async def fill_of(user: str, connection: Bus) -> Fill | None:
    """The first."""
    lines = await read(connection, "FILLS", f"fills.*.{user}", after_sequence=0)
    entries = (entry for line in lines for entry in _append(line.data).entries)
    return next((entry for entry in entries if isinstance(entry, Fill)), None)
