"""What consumers of a real broker give up is in DEAD, each exactly once, whatever becomes of observer."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from observer.figures import OWN
from observer.letters.advisories import FIGURES, Advisories
from observer.letters.advisory import Kind
from runtime.bus import Bus
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Logger
from runtime.testing import Broker, Proxy, Service, eventually
from runtime.wire import In, Out, message_frame
from schemas.codec import Decoder
from schemas.events import DeadLetter

PARTITIONS = "4"  # as the `bus` fixture declares
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
HEADERS = f"traceparent: {PARENT}\r\nx-own: 1\r\n".encode()
_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class Observer:
    """Observer's part that works on advisories, in this process but with its own connection; several lives."""

    def __init__(self, url: str) -> None:
        self._common = Common(nats_url=url)
        self._process: Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.log = io.StringIO()

    async def start(self) -> None:
        figures = {**OWN, **FIGURES}
        process = self._process = Process(
            "observer", self._common, Logger("observer", "json", "debug", self.log), figures
        )
        await process.bus.open(self._common, "test-observer")
        advised = Advisories(process)
        self._tasks = [asyncio.create_task(advised.run()), asyncio.create_task(advised.count_letters())]

    async def kill(self) -> None:
        """As kill -9: nothing more is stored, counted or acknowledged."""
        pending = set(self._tasks)
        while pending:
            for task in pending:
                task.cancel()  # again and again: `wait_for` of Python 3.11 may swallow one
            ended, pending = await asyncio.wait(pending, timeout=0.1)
            for task in ended:
                if not task.cancelled():
                    task.result()
        self._tasks = []
        if self._process is not None:
            await self._process.bus.close()

    def figures(self, name: str) -> dict[str, int]:
        """Of a metric with one label: its values by that label."""
        assert self._process is not None
        rows = (re.fullmatch(rf"{name}\{{\w+=(.*)\}}", key) for key in self._process.figures)
        return {row[1]: self._process.figures[row[0]] for row in rows if row is not None}

    async def counts(self, **wanted: int) -> None:
        """Wait until `advisories_total` is this, and 0 for every other kind."""
        every = {str(kind): wanted.get(str(kind), 0) for kind in Kind}
        try:
            await eventually(lambda: self.figures("advisories_total") == every, f"advisories_total to be {wanted}")
        except AssertionError as error:
            found = self.figures("advisories_total")
            raise AssertionError(f"{every} wanted, {found} found; {self.log.getvalue()[-1500:]}") from error


@pytest.fixture
async def observer(broker: Broker) -> AsyncIterator[Observer]:
    made = Observer(broker.url)
    yield made
    await made.kill()


async def stream(bus: Bus, name: str = "JOBS", **config: Any) -> None:
    made = {"name": name, "subjects": [f"{name.lower()}.>"], "storage": "file", "max_bytes": 1 << 24, **config}
    await bus.api(f"STREAM.CREATE.{name}", made)


async def consumer(bus: Bus, name: str = "worker", of: str = "JOBS", **config: Any) -> None:
    made = {"durable_name": name, "name": name, "ack_policy": "explicit", "ack_wait": 10**9, **config}
    await bus.api(f"CONSUMER.CREATE.{of}.{name}", {"stream_name": of, "config": made})


class Hand:
    """Takes messages of a consumer, and settles them as it is told."""

    def __init__(self, bus: Bus, name: str = "worker", of: str = "JOBS") -> None:
        self._bus = bus
        self._ask = f"$JS.API.CONSUMER.MSG.NEXT.{of}.{name}"
        self.taken: list[tuple[str, bytes, dict[str, str]]] = []  # where to answer, the bytes, the headers

    async def take(self, count: int, answer: bytes = b"", *, more: bool = False) -> None:
        """Wait for so many deliveries, and answer each (b"": say nothing). more: and ask for another one, as workers
        do; the broker looks at a message that was delivered often enough only when it is asked."""
        had = len(self.taken)

        def on_message(_: bytes, reply: bytes, block: bytes, data: bytes) -> None:
            if reply.startswith(b"$JS.ACK"):
                self.taken.append((reply.decode(), data, In("", b"", 0, 0, block, "").headers))

        inbox = await self._bus.subscribe_inbox(on_message, lambda why: None)
        body = json.dumps({"batch": count + more, "expires": 60 * 10**9}).encode()
        self._bus.write(message_frame(self._ask, inbox.subject, b"", body))
        await eventually(lambda: len(self.taken) >= had + count, f"{count} deliveries")
        if not more:
            await inbox.close()
        for reply, _, _ in self.taken[had:] if answer else ():
            await settle(self._bus, reply, answer)


async def settle(bus: Bus, reply: str, answer: bytes) -> None:
    """As `ack_sync`: the broker has taken it when this returns."""
    await bus.request(reply, answer)


async def letters(bus: Bus, count: int, within_s: float = 20.0) -> list[tuple[In, DeadLetter]]:
    """What is in DEAD, once it is at least so much."""

    async def there() -> bool:
        return int((await bus.stream_info("DEAD"))["state"]["messages"]) >= count

    await eventually(there, f"{count} dead letters", within_s)
    return [(message, _letter(message.data)) for message in await read(bus, "DEAD", after_sequence=0)]


async def done(bus: Bus) -> None:
    """Wait until observer has acknowledged every advisory."""

    async def acknowledged() -> bool:
        info = await bus.consumer_info("ADVISORIES", "observer")
        return bool(info["num_pending"] + info["num_ack_pending"] == 0)

    await eventually(acknowledged, "every advisory to be worked on")


async def captured(bus: Bus, count: int) -> None:
    async def there() -> bool:
        return int((await bus.stream_info("ADVISORIES"))["state"]["messages"]) >= count

    await eventually(there, f"{count} advisories")


async def given_up(bus: Bus) -> None:
    await stream(bus)
    await consumer(bus, max_deliver=2)
    await bus.publish("jobs.x", b'{"n": 1}', headers=HEADERS)
    await Hand(bus).take(2, more=True)


async def terminated(bus: Bus) -> None:
    await stream(bus)
    await consumer(bus)
    await bus.publish("jobs.x", b'{"n": 1}', headers=HEADERS)
    await Hand(bus).take(1, b"+TERM no such coin")


async def deleted(bus: Bus) -> None:
    """Retention is faster than the worker."""
    await stream(bus, max_msgs=1)
    await consumer(bus, ack_wait=60 * 10**9)
    await bus.publish("jobs.x", b'{"n": 1}', headers=HEADERS)
    await Hand(bus).take(1)
    await bus.publish("jobs.y", b"next")


CASES: list[tuple[Callable[[Bus], Awaitable[None]], Kind, int, str]] = [
    (given_up, Kind.MAX_DELIVERIES, 2, "delivered as often"),
    (terminated, Kind.TERMINATED, 1, "no such coin"),
    (deleted, Kind.DELETED_UNACKED, 1, "Unacknowledged message was deleted"),
]


@pytest.mark.parametrize("present", [True, False], ids=["observer-there", "observer-absent"])
@pytest.mark.parametrize(("happen", "kind", "deliveries", "reason"), CASES, ids=[str(kind) for _, kind, _, _ in CASES])
async def test_a_message_that_a_consumer_gives_up_is_in_dead_once_with_all_that_is_known_of_it(
    bus: Bus, observer: Observer, happen: Callable[[Bus], Awaitable[None]], kind: Kind, deliveries: int, reason: str,
    present: bool,
) -> None:  # fmt: skip
    if present:
        await observer.start()
        await observer.counts()  # every kind is there, at 0
    await happen(bus)
    await captured(bus, 1)
    if not present:
        await observer.start()
    ((message, letter),) = await letters(bus, 1)
    await observer.counts(**{str(kind): 1})
    whole = kind is not Kind.DELETED_UNACKED
    assert message.subject == "dead.JOBS.worker"
    assert (letter.kind, letter.source, letter.sequence, letter.deliveries) == (kind, "JOBS", 1, deliveries)
    assert reason in letter.reason
    assert (letter.payload, letter.subject, letter.whole) == (
        ('{"n": 1}', "jobs.x", True) if whole else ("", "", False)
    )
    if whole:
        assert letter.headers == {"traceparent": PARENT, "x-own": "1"}
        assert message.headers["traceparent"] == PARENT


@pytest.mark.parametrize("times", [1, 3])
async def test_however_often_a_message_may_be_delivered_the_last_time_counts(
    bus: Bus, observer: Observer, times: int
) -> None:
    await observer.start()
    await stream(bus)
    await consumer(bus, max_deliver=times)
    await bus.publish("jobs.x", b"a")
    await Hand(bus).take(times, more=True)
    ((_, letter),) = await letters(bus, 1)
    assert (letter.deliveries, letter.payload) == (times, "a")
    await observer.counts(max_deliveries=1)


async def test_a_letter_holds_what_a_purge_is_about_to_take(bus: Bus, observer: Observer) -> None:
    await observer.start()
    await terminated(bus)
    await letters(bus, 1)
    await bus.api("STREAM.PURGE.JOBS")
    ((_, letter),) = await letters(bus, 1)
    assert letter.payload == '{"n": 1}'


async def test_a_message_that_is_put_off_is_counted_and_not_dead(bus: Bus, observer: Observer) -> None:
    await observer.start()
    await stream(bus)
    await consumer(bus)
    await bus.publish("jobs.x", b"a")
    hand = Hand(bus)
    await hand.take(1, b"-NAK")
    await hand.take(1, b"+ACK")
    await observer.counts(naked=1)
    await done(bus)
    assert await read(bus, "DEAD", after_sequence=0) == []


@pytest.mark.parametrize("of", ["STREAM.QUORUM_LOST.JOBS", "CONSUMER.QUORUM_LOST.JOBS.worker"])
async def test_a_lost_quorum_is_counted(bus: Bus, observer: Observer, of: str) -> None:
    await observer.start()
    kind = of.partition(".")[0].lower()
    said = {"type": f"io.nats.jetstream.advisory.v1.{kind}_quorum_lost", "stream": "JOBS"}
    bus.tell(f"$JS.EVENT.ADVISORY.{of}", json.dumps(said).encode())  # one server alone cannot lose it
    await observer.counts(quorum_lost=1)


async def test_what_is_no_advisory_is_in_dead_and_stops_nothing(bus: Bus, observer: Observer) -> None:
    await observer.start()
    bus.tell("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.x.y", b"{nonsense")
    await terminated(bus)
    found = await letters(bus, 2)
    assert {message.subject for message, _ in found} == {"dead.ADVISORIES.observer", "dead.JOBS.worker"}
    await observer.counts(terminated=1)


async def test_a_letter_that_a_consumer_of_dead_gives_up_leads_to_no_other(bus: Bus, observer: Observer) -> None:
    await observer.start()
    await terminated(bus)
    await letters(bus, 1)
    await consumer(bus, "reader", of="DEAD")
    await Hand(bus, "reader", of="DEAD").take(1, b"+TERM")
    await observer.counts(terminated=2)
    await done(bus)
    assert len(await letters(bus, 1)) == 1


# Killed in between


async def shorten_window(bus: Bus) -> None:
    """What is once in DEAD must be so without the broker's memory of ids, which a longer absence outlasts."""
    config = (await bus.stream_info("DEAD"))["config"]
    await bus.api("STREAM.UPDATE.DEAD", {**config, "duplicate_window": 100_000_000})


@pytest.mark.parametrize("forwarded", [False, True], ids=["not-stored", "stored"])
@pytest.mark.parametrize("what", [b"dead.JOBS.worker", b"$KV.counts.advisories", b"+ACK"])
async def test_a_letter_is_written_once_wherever_the_connection_goes(
    broker: Broker, bus: Bus, what: bytes, forwarded: bool
) -> None:
    await shorten_window(bus)
    async with Proxy(broker) as proxy:
        observer = Observer(proxy.url)
        proxy.cut_at(what, forwarded=forwarded)
        await observer.start()
        await terminated(bus)
        await eventually(lambda: not proxy.armed, "the cut")
        await done(bus)
        await observer.counts(terminated=1)
        await observer.kill()
    assert len(await letters(bus, 1)) == 1


@pytest.mark.parametrize("what", [b"dead.JOBS.worker", b"$KV.counts.advisories"])
async def test_a_letter_is_written_once_wherever_observer_is_killed(broker: Broker, bus: Bus, what: bytes) -> None:
    """The answer never comes: what was asked is done, and observer dies without knowing."""
    await shorten_window(bus)
    async with Proxy(broker) as proxy:
        first = Observer(proxy.url)
        proxy.cut_at(what, forwarded=True)
        await first.start()
        await terminated(bus)
        await eventually(lambda: not proxy.armed, "the cut")
        with proxy.unreachable():
            await first.kill()
    second = Observer(broker.url)
    await second.start()
    await done(bus)
    await second.counts(terminated=1)
    await second.kill()
    assert len(await letters(bus, 1)) == 1


async def test_many_at_once_and_the_process_killed_again_and_again_each_is_in_dead_once(
    broker: Broker, bus: Bus, service: Callable[..., Service], observer: Observer
) -> None:
    await shorten_window(bus)
    await stream(bus, allow_atomic=True)
    await consumer(bus, max_ack_pending=1000, ack_wait=600 * 10**9)
    await bus.append([Out(f"jobs.{number}", str(number).encode()) for number in range(300)])
    hand = Hand(bus)
    await hand.take(300)
    process = service("observer", MINTLINE_NATS_URL=broker.url, MINTLINE_PARTITIONS=PARTITIONS)
    for part in range(2):
        process.start()
        answers = [settle(bus, reply, b"+TERM") for reply, _, _ in hand.taken[part * 150 : part * 150 + 150]]
        await asyncio.gather(*answers)
        await letters(bus, part * 150 + 20, within_s=60)  # a process starts in between
        process.kill()
    await observer.start()
    await done(bus)
    await observer.counts(terminated=300)
    found = Counter(letter.payload for _, letter in await letters(bus, 300))
    assert found == Counter(str(number) for number in range(300))


async def test_the_counts_go_on_where_they_were_and_never_fall(broker: Broker, bus: Bus, observer: Observer) -> None:
    await observer.start()
    await terminated(bus)
    await observer.counts(terminated=1)
    await observer.kill()
    await bus.publish("jobs.y", b"2")
    await Hand(bus).take(1, b"+TERM")
    await observer.start()
    seen = []

    def both() -> bool:
        seen.append(observer.figures("advisories_total").get("terminated"))
        return seen[-1] == 2

    await eventually(both, "the second one to be counted")
    assert [count for count in seen if count is not None and count < 1] == []


async def test_a_broker_that_was_killed_says_nothing_twice(broker: Broker, bus: Bus, observer: Observer) -> None:
    await observer.start()
    await given_up(bus)
    await letters(bus, 1)
    await observer.counts(max_deliveries=1)
    with broker.stopped():
        await eventually(lambda: not bus.connected, "the connection to be lost")
    await eventually(lambda: bus.connected, "the broker to be back")
    await bus.publish("jobs.y", b"2")
    await Hand(bus).take(2, more=True)
    found = await letters(bus, 2)
    assert [letter.payload for _, letter in found] == ['{"n": 1}', "2"]
    await observer.counts(max_deliveries=2)


async def test_the_letters_are_counted_by_where_they_come_from(bus: Bus, observer: Observer) -> None:
    await observer.start()
    known = {"FEED": 0, "TOKENS": 0, "DECISIONS": 0, "SIGNALS": 0, "FILLS": 0}

    async def there(**more: int) -> None:
        wanted = {**known, **more}
        await eventually(lambda: observer.figures("dead_letters") == wanted, f"dead_letters to be {wanted}")

    await there()
    await terminated(bus)
    await there(JOBS=1)
