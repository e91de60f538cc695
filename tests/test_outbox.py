"""The outbox and the intake against a real nats-server: in order and complete, whatever becomes of the broker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path

import pytest

from ingest import outbox as outbox_module
from ingest.intake import FIGURES as INTAKE_FIGURES
from ingest.intake import Intake
from ingest.outbox import FIGURES, Outbox
from ingest.spool import Record, Spool, SpoolFull
from runtime.bus import Bus
from runtime.declare import declare
from runtime.readers import read
from runtime.settings import Common
from runtime.telemetry import Figures, Logger
from runtime.testing import Broker, Proxy, eventually
from schemas.codec import Decoder
from schemas.events import DeadLetter

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class Sender:
    """An outbox with its own connection and spool, running."""

    def __init__(
        self, url: str, directory: Path, waiting_max: int, spool_bytes_max: int, ack_wait_s: float = 2.0
    ) -> None:
        self.logged: list[str] = []
        self.bus = Bus(lambda event, **fields: None)
        self.url = url
        self.spool = Spool(directory, bytes_max=spool_bytes_max)
        self.figures = Figures({**FIGURES, **INTAKE_FIGURES})
        self.outbox = Outbox(
            self.bus, self.spool, self.figures, lambda event, **fields: self.logged.append(event),
            waiting_max=waiting_max, ack_wait_s=ack_wait_s,
        )  # fmt: skip
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.closed_in_s = 0.0

    async def open(self) -> None:
        await self.bus.open(Common(nats_url=self.url), "test-outbox")

    def run(self) -> None:
        self.task = asyncio.create_task(self.outbox.run())

    async def end(self) -> None:
        """What ingest does at its end; the outbox has been given its time to flush."""
        if self.ended:
            return
        self.ended = True
        assert self.task is not None
        while not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=0.1)
        if not self.task.cancelled():
            self.task.result()
        started_s = asyncio.get_running_loop().time()
        await self.outbox.close()
        self.closed_in_s = asyncio.get_running_loop().time() - started_s
        await self.bus.close()


@contextlib.asynccontextmanager
async def sender(
    url: str,
    directory: Path,
    *,
    waiting_max: int = 20_000,
    spool_bytes_max: int = 64 << 20,
    ack_wait_s: float = 2.0,
    connect: bool = True,
) -> AsyncIterator[Sender]:
    made = Sender(url, directory, waiting_max, spool_bytes_max, ack_wait_s)
    if connect:
        await made.open()
    made.run()
    try:
        yield made
    finally:
        await made.end()


def record(number: int, size: int = 8) -> Record:
    return Record(f"tokens.traded.m{number % 7}", f"{number:032x}", b"%0*d" % (size, number))


async def put(outbox: Outbox, first: int, last: int, size: int = 8) -> None:
    for number in range(first, last):
        await outbox.put(record(number, size))


async def stored(bus: Bus, stream: str = "TOKENS") -> list[int]:
    return [int(message.data) for message in await read(bus, stream, after_sequence=0)]


async def flushed(one: Sender) -> None:
    assert await one.outbox.flushed(20), dict(one.figures)


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


async def test_a_full_memory_goes_to_disk_and_comes_back_in_order(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool", waiting_max=100) as one:
        await put(one.outbox, 0, 50)
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            await put(one.outbox, 50, 1650)
            assert one.outbox.spooling
            await eventually(lambda: one.figures["spooled"] >= 1550, "the figure of the spool")
            assert one.figures["waiting"] == 0  # what waits is on disk, whole
        await put(one.outbox, 1650, 1700)
        await flushed(one)
        assert not one.outbox.spooling
        await eventually(lambda: one.figures["spooled"] == one.figures["spooled_bytes"] == 0, "an empty spool")
        await put(one.outbox, 1700, 1750)
        await flushed(one)
        assert (one.figures["published_total"], one.figures["duplicates_total"]) == (1750, 0)
    assert await stored(bus) == list(range(1750))


@pytest.mark.parametrize("full", [False, True], ids=["kept", "refused"])
async def test_several_at_once_lose_nothing_while_memory_moves_to_disk(
    broker: Broker, bus: Bus, tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker comes back, and others put records, just while the move is being written (or fails)."""
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=20) as one:
        loop, moving = asyncio.get_running_loop(), asyncio.Event()
        append, go = one.spool.append, asyncio.Event()
        refusals = [SpoolFull("by the test")] if full else []

        def slow_append(records: list[Record]) -> None:
            loop.call_soon_threadsafe(moving.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
            if refusals:
                raise refusals.pop()
            append(records)

        monkeypatch.setattr(one.spool, "append", slow_append)
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            await put(one.outbox, 0, 20)
            putting = [asyncio.create_task(one.outbox.put(record(number))) for number in range(20, 23)]
            await asyncio.wait_for(moving.wait(), 10)
        await eventually(lambda: one.bus.connected, "the connection to be back")
        putting += [asyncio.create_task(one.outbox.put(record(number))) for number in range(23, 26)]
        await asyncio.sleep(0.1)  # time for the outbox to send what it should not
        go.set()
        await asyncio.gather(*putting)
        await flushed(one)
        assert one.figures["duplicates_total"] == 0
    assert (await stored(bus))[:20] == list(range(20))
    assert sorted(await stored(bus)) == list(range(26))


async def test_a_full_spool_makes_whoever_puts_wait_and_drops_nothing(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=10, spool_bytes_max=8_000) as one:
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            putting = asyncio.create_task(put(one.outbox, 0, 400))
            await eventually(lambda: one.figures["spool_full"] == 1, "a full spool")
            kept = one.spool.records
            assert 10 < kept < 400
            await asyncio.sleep(0.2)
            assert (one.spool.records, putting.done()) == (kept, False)
            assert one.logged.count("spool_full") == 1
        await putting
        await flushed(one)
        await eventually(lambda: one.figures["spool_full"] == 0, "the all-clear")
    assert await stored(bus) == list(range(400))


async def test_memory_that_does_not_fit_on_disk_stays_in_memory(
    broker: Broker, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FULL_RETRY_S", 0.05)
    async with sender(broker.url, tmp_path / "spool", waiting_max=200, spool_bytes_max=4_000) as one:
        with broker.stopped():
            await eventually(lambda: not one.bus.connected, "the loss to be noticed")
            putting = asyncio.create_task(put(one.outbox, 0, 201))
            await eventually(lambda: one.figures["spool_full"] == 1, "a full spool")
            assert (one.outbox.spooling, putting.done(), one.spool.records) == (False, False, 0)
        await putting
        await flushed(one)
        await eventually(lambda: one.figures["spool_full"] == 0, "the all-clear")
    assert await stored(bus) == list(range(201))


async def test_a_busy_broker_makes_whoever_puts_wait(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    """Behind is not away: what does not fit in memory waits at the socket, and nothing goes to disk."""
    async with sender(broker.url, tmp_path / "spool", waiting_max=100, ack_wait_s=0.5) as one:
        with broker.frozen():
            putting = asyncio.create_task(put(one.outbox, 0, 5000))
            await eventually(lambda: one.figures["republished_total"] > 0, "a repetition")
            assert not putting.done()
            assert one.figures["waiting"] <= 100 + outbox_module.IN_FLIGHT_MAX
        await putting
        await flushed(one)
        assert "spooling" not in one.logged
    assert await stored(bus) == list(range(5000))


OWNER = """
import asyncio, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_outbox import put, sender

async def main():
    async with sender("nats://127.0.0.1:9", Path(sys.argv[1]), waiting_max=int(sys.argv[2]), connect=False) as one:
        await put(one.outbox, 0, 500)
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_what_is_on_disk_survives_a_killed_owner(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220 - a child to be killed
        [sys.executable, "-c", OWNER, str(tmp_path / "spool"), "20", str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert (await asyncio.to_thread(owner.stdout.readline)).strip() == b"ready"
        owner.send_signal(signal.SIGKILL)
    finally:
        owner.kill()
        owner.communicate()
    async with sender(broker.url, tmp_path / "spool") as one:
        assert one.outbox.spooling
        await put(one.outbox, 500, 600)  # new ones queue up behind the old
        await flushed(one)
        assert one.figures["published_total"] == 600
    assert await stored(bus) == list(range(600))


async def test_a_life_that_ends_in_the_middle_of_the_spool_repeats_and_loses_nothing(
    broker: Broker, bus: Bus, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", bytes_max=64 << 20)
    spool.append([record(number) for number in range(3500)])
    spool.close()
    for _ in range(3):
        async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
            proxy.cut_at(b"Nats-Msg-Id", forwarded=True, times_before=700)
            await eventually(lambda p=proxy: not p.armed, "the cut")  # type: ignore[misc]
            with proxy.unreachable():
                await eventually(lambda s=one: not s.bus.connected, "the loss")  # type: ignore[misc]
                await one.end()
    async with sender(broker.url, tmp_path / "spool") as last:
        await flushed(last)
        assert last.figures["duplicates_total"] == 0
    assert await stored(bus) == list(range(3500))


async def test_closing_with_a_frozen_broker_is_quick_and_keeps_all(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    async with sender(broker.url, tmp_path / "spool") as one:
        await put(one.outbox, 0, 10)
        await flushed(one)
        with broker.frozen():
            await put(one.outbox, 10, 1510)  # some in flight, some waiting
            assert not await one.outbox.flushed(0.2)
            await one.end()
            assert one.closed_in_s < 2
            assert "spooled_at_exit" in one.logged
    async with sender(broker.url, tmp_path / "spool") as next_:
        await flushed(next_)
        assert next_.figures["duplicates_total"] == 0
    assert await stored(bus) == list(range(1510))


async def test_what_does_not_fit_on_disk_at_the_end_is_told(tmp_path: Path) -> None:
    one = Sender("nats://127.0.0.1:9", tmp_path / "spool", 1000, 4_000)
    await put(one.outbox, 0, 300)
    with pytest.raises(SpoolFull):
        await one.outbox.close()
    one.spool.close()


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


# The intake


def intake(one: Sender) -> Intake:
    return Intake(one.outbox.put, one.figures, Logger("ingest", "json", "error", Quiet()))  # type: ignore[arg-type]


class Quiet:
    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        return

    def isatty(self) -> bool:
        return False


def outcomes_of(figures: Figures) -> Counter[str]:
    names = ("event", "notice", "error", "dead")
    return Counter({name: figures[f"frames_total{{outcome={name}}}"] for name in names})


@pytest.mark.parametrize(
    ("frame", "kept", "encoding"),
    [
        (b"{not json", b"{not json", "utf-8"),
        (b'{"txType": "create"}', b'{"txType": "create"}', "utf-8"),
        (b"\xff\xfe\x00", b"\xff\xfe\x00", "base64"),
        (b'"' * 80_000, b'"' * 80_000, "base64"),
        (b"[" * 1_000_000, b"[" * 92_160, "base64"),  # as large as the socket takes
    ],
)
async def test_a_frame_that_no_parser_takes_is_kept_whole_in_dead(
    broker: Broker, bus: Bus, tmp_path: Path, frame: bytes, kept: bytes, encoding: str
) -> None:
    async with Proxy(broker) as proxy, sender(proxy.url, tmp_path / "spool") as one:
        proxy.cut_at(b"dead.FEED.ingest", forwarded=True)
        taking = intake(one)
        await taking.frame(frame, 1_750_000_000_000_000_000)
        await flushed(one)
        assert outcomes_of(one.figures) == Counter(dead=1)
        assert (one.figures["published_total"], one.figures["publish_refused_total"]) == (1, 0)
    (message,) = await read(bus, "DEAD", after_sequence=0)
    letter = _letter(message.data)
    assert (message.subject, letter.source, letter.encoding) == ("dead.FEED.ingest", "pumpportal", encoding)
    assert (letter.payload.encode() if encoding == "utf-8" else base64.b64decode(letter.payload)) == kept
    assert letter.reason
    assert letter.reason.startswith("the first") == (kept != frame) == (not letter.whole)
    assert message.headers["traceparent"] == letter.headers["traceparent"]
    assert blake2b(frame, digest_size=16).hexdigest() in letter.headers["traceparent"]


async def test_every_frame_has_exactly_one_outcome(broker: Broker, bus: Bus, tmp_path: Path) -> None:
    frames = [
        b'{"message": "Successfully subscribed to token creation events."}',
        b'{"errors": "Invalid message"}',
        b"nonsense",
    ]
    async with sender(broker.url, tmp_path / "spool") as one:
        taking = intake(one)
        for number, frame in enumerate(frames * 2):
            await taking.frame(frame, 1_750_000_000_000_000_000 + number)
        await flushed(one)
        assert outcomes_of(one.figures) == Counter(notice=2, error=2, dead=2)
    assert len(await read(bus, "DEAD", after_sequence=0)) == 2  # the same bytes at another time are another frame
