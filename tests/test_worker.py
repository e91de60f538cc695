"""The worker against a real nats-server: whatever interrupts it, the output stream is what an undisturbed one gives."""

import asyncio
import signal
from typing import Any

import pytest

from runtime import bus as bus_module
from runtime import worker as worker_module
from runtime.bus import Bus
from runtime.readers import read
from runtime.testing import Broker, Proxy, eventually
from runtime.testing_worker import Running, done, expected, feed, floor, outs, stored, worker


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
