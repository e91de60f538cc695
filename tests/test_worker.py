"""The worker against a real nats-server: whatever interrupts it, the output stream is what an undisturbed one gives."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from runtime import bus as bus_module
from runtime import wire
from runtime import worker as worker_module
from runtime.bus import Bus
from runtime.fences import StreamEnd
from runtime.readers import DurableReader, Follower, Interrupted, read
from runtime.settings import Common
from runtime.testing import Broker, Life, Proxy, eventually
from runtime.wire import In, Out, chunks, message_frame
from runtime.worker import FIGURES, Worker, first_of, keep_on
from schemas import subjects
from schemas.codec import Decoder
from schemas.events import DeadLetter

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class Repeat:
    """A stage: `name*3` becomes the outputs name-0, name-1, name-2; their bytes are their ids."""

    output = "DECISIONS"

    def __init__(self) -> None:
        self.decided: list[str] = []
        self.rebuilt: list[tuple[int, int]] = []
        self.on_decide: Callable[[str], None] = lambda text: None

    async def rebuild(self, after: int, floor: int) -> None:
        self.rebuilt.append((after, floor))

    def decide(self, message: In) -> Sequence[Out]:
        text = message.data.decode()
        self.on_decide(text)
        self.decided.append(text)
        return outs(text)

    async def settled(self) -> None:
        return


def outs(*texts: str) -> list[Out]:
    """Raises ValueError for a text that is not `name*count`."""
    found = []
    for text in texts:
        name, _, count = text.partition("*")
        ids = [f"{name}-{i}" for i in range(int(count))]
        found += [Out(f"decisions.SNIPER.{id_}", id_.encode(), id=id_) for id_ in ids]
    return found


class Running(Life):
    """One life of a worker."""

    def __init__(self, url: str) -> None:
        super().__init__("test", Common(nats_url=url), FIGURES, log_level="debug")
        self.stage = Repeat()

    def run(self) -> None:
        process, ready = self.process, asyncio.Event()
        fence = StreamEnd(process.bus, self.stage.output)
        worker = Worker(
            process, subjects.ANALYZE, self.stage, fence, ready, output_id=lambda message: message.data.decode()
        )

        async def step() -> None:
            ready.clear()
            if not await worker.step():
                await first_of(ready, process.stop)

        self.work(keep_on(process, worker.start, step))


@contextlib.asynccontextmanager
async def worker(url: str, prepare: Callable[[Running], None] = lambda running: None) -> AsyncIterator[Running]:
    running = Running(url)
    prepare(running)
    await running.open()
    running.run()
    try:
        yield running
    finally:
        await running.kill()


async def feed(bus: Bus, *texts: str) -> None:
    for chunk in chunks([Out("tokens.created.m", text.encode()) for text in texts]):
        await bus.append(chunk)


async def stored(bus: Bus) -> list[str]:
    return [message.data.decode() for message in await read(bus, "DECISIONS", after_sequence=0)]


async def floor(bus: Bus) -> int:
    return int((await bus.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"])


async def done(bus: Bus, sequence: int) -> None:
    """Wait until the worker has acknowledged up to an input."""

    async def acknowledged() -> bool:
        return await floor(bus) >= sequence

    await eventually(acknowledged, f"the acknowledgement of {sequence}")


def expected(*texts: str) -> list[str]:
    return [out.id for out in outs(*texts)]


@pytest.mark.parametrize("forwarded", [False, True], ids=["nothing-stored", "answer-lost"])
@pytest.mark.parametrize("times_before", [0, 1, 3])  # batches that went well before; 4,500 outputs are 5 or more
async def test_a_connection_lost_in_a_batch_loses_and_doubles_nothing(
    broker: Broker, bus: Bus, forwarded: bool, times_before: int
) -> None:
    texts = ["a*1500", "b*0", "c*1500", "d*1500"]
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"Nats-Batch-Commit", forwarded=forwarded, times_before=times_before)
        async with worker(proxy.url) as running:
            await feed(bus, *texts)
            await done(bus, 4)
            assert not proxy.armed
            assert running.figure("interruptions_total") >= 1
            assert running.stage.decided == texts  # decided once, though delivered again
            assert running.stage.rebuilt == [(0, 0)]
    assert await stored(bus) == expected(*texts)


@pytest.mark.parametrize("forwarded", [False, True], ids=["nothing-stored", "answer-lost"])
@pytest.mark.parametrize("times_before", [0, 2])
async def test_a_restart_with_outputs_partly_stored_stores_the_rest(
    broker: Broker, bus: Bus, forwarded: bool, times_before: int
) -> None:
    texts = ["a*1500", "b*2500"]
    await feed(bus, *texts)
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"Nats-Batch-Commit", forwarded=forwarded, times_before=times_before)
        first = Running(proxy.url)
        await first.open()
        first.run()
        await eventually(lambda: not proxy.armed, "the cut")
        await first.kill()
    assert len(await stored(bus)) < 4000
    async with worker(broker.url) as second:
        await done(bus, 2)
        if times_before or forwarded:
            assert second.figure("outputs_known_total") >= 1000
    assert await stored(bus) == expected(*texts)


async def test_a_broker_that_stores_a_batch_but_answers_too_late_doubles_nothing(
    broker: Broker, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "ACK_WAIT_S", 0.2)
    monkeypatch.setattr(bus_module, "REQUEST_WAIT_S", 0.2)

    def freeze(text: str) -> None:
        if text == "b*1200":
            broker.signal(signal.SIGSTOP)

    def prepare(running: Running) -> None:
        running.stage.on_decide = freeze

    async with worker(broker.url, prepare) as running:
        await feed(bus, "a*1", "b*1200", "c*1")
        await eventually(lambda: running.figure("interruptions_total") > 0, "the missing answer to be noticed")
        broker.signal(signal.SIGCONT)
        await done(bus, 3)
    assert await stored(bus) == expected("a*1", "b*1200", "c*1")


async def test_a_killed_broker_loses_and_doubles_nothing(broker: Broker, bus: Bus) -> None:
    texts = [f"m{i}*20" for i in range(300)]
    async with worker(broker.url) as running:
        for start in range(0, 300, 100):
            await feed(bus, *texts[start : start + 100])
            await eventually(lambda: bool(running.stage.decided), "the first decisions")
            with broker.stopped():
                await eventually(lambda: not bus.connected, "the loss to be noticed")
            await eventually(lambda: bus.connected, "the connection")
        await done(bus, 300)
    assert await stored(bus) == expected(*texts)


@pytest.mark.parametrize("at_once", [1, worker_module.TAKE_MESSAGES_MAX])
async def test_read_back_and_no_window_keeps_a_late_restart_from_doubling(
    broker: Broker, bus: Bus, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream's deduplication is as good as off, and no message carries an id for it."""
    config = (await bus.stream_info("DECISIONS"))["config"]
    await bus.api("STREAM.UPDATE.DECISIONS", {**config, "duplicate_window": 100_000_000})
    await feed(bus, "a*3", "b*1100")
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"+ACK", forwarded=False)
        first = Running(proxy.url)
        await first.open()
        first.run()
        await eventually(lambda: not proxy.armed, "the lost acknowledgement")
        await first.kill()
    assert await floor(bus) == 0
    monkeypatch.setattr(worker_module, "TAKE_MESSAGES_MAX", at_once)  # what was read back serves more than one group
    await asyncio.sleep(0.3)  # past the window: nothing but time makes it pass
    async with worker(broker.url) as second:
        await done(bus, 2)
        assert second.figure("outputs_known_total") == 1103
    assert await stored(bus) == expected("a*3", "b*1100")
    messages = await read(bus, "DECISIONS", after_sequence=0)
    assert not any("Nats-Msg-Id" in (message.headers or {}) for message in messages)


async def test_outputs_of_a_second_worker_are_not_written_again(broker: Broker, bus: Bus) -> None:
    def prepare(running: Running) -> None:
        async def write_first() -> None:
            await bus.append(outs("a*2"), expect_last=0)

        def other(text: str) -> None:
            if text == "a*2" and not tasks:
                tasks.append(asyncio.create_task(write_first()))

        running.stage.on_decide = other

    tasks: list[asyncio.Task[None]] = []
    async with Proxy(broker) as proxy:
        proxy.delay_s = 0.05  # so that the other one is first
        async with worker(proxy.url, prepare) as running:
            await feed(bus, "a*2", "b*2")
            await done(bus, 2)
            assert running.process.figures["interruptions_total{kind=WrongSequence}"] >= 1
    await asyncio.gather(*tasks)
    assert await stored(bus) == expected("a*2", "b*2")


@pytest.mark.parametrize("new_message", [False, True], ids=["of-a-known-message", "of-a-new-message"])
@pytest.mark.parametrize("place", range(4))  # before and after each of the two questions about a stream's end
async def test_a_write_in_the_middle_of_the_start_is_not_written_again(
    broker: Broker, bus: Bus, place: int, new_message: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "TAKE_MESSAGES_MAX", 1)  # what was read back serves more than one group
    await feed(bus, "a*2")

    async def write() -> None:
        if new_message:
            await feed(bus, "b*2")
            await bus.append(outs("a*2", "b*2"), expect_last=0)
        else:
            await bus.append(outs("a*2"), expect_last=0)

    def prepare(running: Running) -> None:
        ask, calls = running.process.bus.stream_info, iter(range(100))

        async def stream_info(name: str) -> dict[str, Any]:
            call = next(calls)
            if place == 2 * call:
                await write()
            info = await ask(name)
            if place == 2 * call + 1:
                await write()
            return info

        running.process.bus.stream_info = stream_info  # type: ignore[method-assign]

    async with worker(broker.url, prepare):
        await done(bus, 1 + new_message)
        await feed(bus, "c*1")
        await done(bus, 2 + new_message)
    assert await stored(bus) == expected("a*2", *(["b*2"] if new_message else []), "c*1")


async def test_two_workers_at_once_double_nothing(broker: Broker, bus: Bus) -> None:
    texts = [f"m{i}*3" for i in range(200)]
    async with worker(broker.url) as one, worker(broker.url) as other:
        for start in range(0, 200, 10):
            await feed(bus, *texts[start : start + 10])
            await asyncio.sleep(0.02)  # an even flow, so that both meet messages
        await eventually(lambda: any(len(each.stage.decided) > 1 for each in (one, other)), "some decisions")
    async with worker(broker.url):
        await done(bus, 200)
    assert await stored(bus) == expected(*texts)


async def test_a_worker_whose_messages_another_one_acknowledged_catches_up_and_goes_on(
    broker: Broker, bus: Bus
) -> None:
    """The messages that it missed are given to its stage's state, and not to the output again."""
    async with Proxy(broker) as proxy, worker(proxy.url) as old:
        await feed(bus, "a*1")
        await done(bus, 1)
        with proxy.unreachable():
            async with worker(broker.url):
                await feed(bus, "b*1", "c*1")
                await done(bus, 3)
        await feed(bus, "d*1")
        await done(bus, 4)
        assert old.stage.rebuilt == [(0, 0), (1, 3)]
        assert old.stage.decided == ["a*1", "d*1"]
    assert await stored(bus) == expected("a*1", "b*1", "c*1", "d*1")


async def test_what_another_one_stored_and_acknowledged_meanwhile_is_not_stored_again(broker: Broker, bus: Bus) -> None:
    """A worker that has decided, and could not store: somebody else did, up to further on."""
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"Nats-Batch-Commit", forwarded=False)
        async with worker(proxy.url) as old:
            await feed(bus, "a*2", "b*2")
            await eventually(lambda: not proxy.armed, "the cut")
            with proxy.unreachable():
                async with worker(broker.url):
                    await done(bus, 2)
            await eventually(lambda: old.process.is_ready, "it to be back")
            await feed(bus, "c*2")
            await done(bus, 3)
            assert old.stage.decided[-1] == "c*2"
    assert await stored(bus) == expected("a*2", "b*2", "c*2")


@pytest.mark.parametrize(
    ("data", "kept", "encoding"),
    [
        (b"no count", b"no count", "utf-8"),
        (b"\xff\x00\xfe", b"\xff\x00\xfe", "base64"),
        (b'"' * 90_000, b'"' * 90_000, "base64"),  # as text it would double
        (b"\xff" * 92_000, b"\xff" * 92_000, "base64"),
        (b"\x01" * 130_500, b"\x01" * 92_160, "base64"),  # more than a letter can hold: cut, and it says so
    ],
)
async def test_a_message_that_cannot_be_decided_goes_to_dead_whole_and_the_rest_goes_on(
    broker: Broker, bus: Bus, data: bytes, kept: bytes, encoding: str
) -> None:
    async with worker(broker.url) as running:
        await feed(bus, "a*1")
        await bus.append([Out("tokens.created.m", data)])
        await feed(bus, "b*1")
        await done(bus, 3)
        assert running.figure("dead_letters_total") == 1
    assert await stored(bus) == expected("a*1", "b*1")
    (message,) = await read(bus, "DEAD", after_sequence=0)
    letter = _letter(message.data)
    assert message.subject == "dead.TOKENS.analyze"
    assert (letter.source, letter.subject, letter.sequence) == ("TOKENS", "tokens.created.m", 2)
    assert letter.encoding == encoding
    assert (letter.payload.encode() if encoding == "utf-8" else base64.b64decode(letter.payload)) == kept
    assert ("of 130500 bytes" in letter.reason) == (kept != data) == (not letter.whole)


async def test_a_dead_letter_keeps_the_headers_and_stays_in_the_trace(broker: Broker, bus: Bus) -> None:
    async with worker(broker.url):
        headers = wire.trace_headers("0123456789abcdef" * 2) + b"x-own: 1\r\n"
        await bus.append([Out("tokens.created.m", b"no count", headers)])
        await done(bus, 1)
    (message,) = await read(bus, "DEAD", after_sequence=0)
    letter = _letter(message.data)
    parent = message.headers["traceparent"]
    assert letter.headers == {"traceparent": parent, "x-own": "1"}
    assert parent.startswith("00-0123456789abcdef0123456789abcdef-")
    assert (letter.kind, letter.deliveries) == ("rejected", 1)


@pytest.mark.parametrize("forwarded", [False, True])
async def test_a_dead_letter_lost_on_the_way_is_written_again_and_kept_once(
    broker: Broker, bus: Bus, forwarded: bool
) -> None:
    async with Proxy(broker) as proxy:
        proxy.cut_at(b"dead.TOKENS.analyze", forwarded=forwarded)
        async with worker(proxy.url):
            await feed(bus, "a*1", "bad", "b*1")
            await done(bus, 3)
            assert not proxy.armed
    assert [_letter(m.data).payload for m in await read(bus, "DEAD", after_sequence=0)] == ["bad"]
    assert await stored(bus) == expected("a*1", "b*1")


async def test_nothing_is_acknowledged_before_its_outputs_are_stored(broker: Broker, bus: Bus) -> None:
    """The connection goes in each of the first batches in turn; what is acknowledged then has all its outputs."""
    texts = [f"m{i}*700" for i in range(10)]
    await feed(bus, *texts)
    for times_before in range(4):
        async with Proxy(broker) as proxy:
            proxy.cut_at(b"Nats-Batch-Commit", forwarded=False, times_before=times_before)
            first = Running(proxy.url)
            await first.open()
            first.run()
            await eventually(lambda p=proxy: not p.armed, "the cut")  # type: ignore[misc]
            await first.kill()
        assert len(await stored(bus)) >= 700 * await floor(bus)
    async with worker(broker.url):
        await done(bus, 10)
    assert await stored(bus) == expected(*texts)


async def test_one_message_with_more_outputs_than_a_group_holds(broker: Broker, bus: Bus) -> None:
    text = f"big*{worker_module.GROUP_OUTPUTS_MAX + 501}"
    async with worker(broker.url):
        await feed(bus, "a*1", text, "b*1")
        await done(bus, 3)
    assert await stored(bus) == expected("a*1", text, "b*1")


async def _impatient(bus: Bus) -> None:
    """Let the consumer deliver again what is not acknowledged after a second."""
    config = (await bus.consumer_info("TOKENS", "analyze"))["config"]
    created = {"stream_name": "TOKENS", "config": {**config, "ack_wait": 1_000_000_000}}
    await bus.api("CONSUMER.CREATE.TOKENS.analyze.tokens.>", created)


async def test_messages_delivered_again_make_no_second_output(broker: Broker, bus: Bus) -> None:
    await _impatient(bus)
    async with Proxy(broker) as proxy, worker(proxy.url) as running:
        await feed(bus, "a*2")
        await done(bus, 1)
        proxy.delay_s = 0.8  # the answer takes 1.6 s, and the message comes again meanwhile
        await feed(bus, "b*2")
        await eventually(lambda: running.figure("messages_repeated_total") > 0, "a repetition")
        proxy.delay_s = 0.0
        await feed(bus, "c*2")
        await done(bus, 3)
    assert await stored(bus) == expected("a*2", "b*2", "c*2")


async def test_a_late_acknowledgement_of_another_life_does_not_hold_the_floor_for_good(
    broker: Broker, bus: Bus
) -> None:
    """After it the broker passes over acknowledgements until the delivery numbers of that life are reached."""
    await _impatient(bus)
    texts = [f"m{i}*1" for i in range(320)]
    await feed(bus, *texts)
    old = DurableReader(bus, subjects.ANALYZE)
    await old.start()
    await eventually(lambda: old.buffered == 320, "320 messages")
    messages = old.take(320)
    old.acknowledge(messages[249])
    await done(bus, 250)
    await old.close()

    def prepare(running: Running) -> None:
        def late(text: str) -> None:
            if text == texts[299]:  # the other process wakes up; ours counts deliveries from one
                running.process.bus.write(message_frame(messages[299].reply, "", b"", b"+ACK"))

        running.stage.on_decide = late

    async with worker(broker.url, prepare) as running:
        await done(bus, 320)
        assert running.figure("interruptions_total") >= 1  # it noticed, and started again
    assert await stored(bus) == expected(*texts[250:])


async def test_a_reader_acknowledges_nothing_while_it_is_broken(bus: Bus) -> None:
    await feed(bus, "a*1", "b*1")
    reader = DurableReader(bus, subjects.ANALYZE)
    await reader.start()
    await eventually(lambda: reader.buffered == 2, "two messages")
    messages = reader.take(2)
    reader.interrupt("test")
    reader.acknowledge(messages[1])
    with pytest.raises(Interrupted):
        reader.take(1)
    assert await reader.start() == 0
    await reader.close()


@pytest.mark.parametrize("before", [0, 3])  # messages in the stream when the follower begins
async def test_a_follower_of_what_is_new_keeps_its_place_over_a_loss(broker: Broker, bus: Bus, before: int) -> None:
    await feed(bus, *(f"old{i}*0" for i in range(before)))
    async with Proxy(broker) as proxy:
        own = Bus(lambda event, **fields: None)
        await own.open(Common(nats_url=proxy.url), "test")
        follower = Follower(own, "TOKENS", only_new=True)
        await eventually(lambda: follower.caught_up, "the follower to be there")
        with proxy.unreachable():
            await eventually(lambda: not own.connected, "the loss to be noticed")
            await feed(bus, "a*1")
        await eventually(lambda: own.connected, "the connection")
        assert [message.data for message in await asyncio.wait_for(follower.more(), 10)] == [b"a*1"]
        await follower.close()
        await own.close()


async def test_a_worker_asked_to_stop_ends_though_nothing_comes(broker: Broker, bus: Bus) -> None:
    async with worker(broker.url) as running:
        await eventually(lambda: running.process.is_ready, "the worker to be ready")
        running.process.stop.set()
        assert running.task is not None
        await asyncio.wait_for(running.task, 2)
