"""What a worker acknowledges, and what its readers make of a loss, on a real nats-server."""

import asyncio

import pytest

from runtime import worker as worker_module
from runtime.bus import Bus
from runtime.readers import DurableReader, Follower, Interrupted
from runtime.settings import Common
from runtime.testing import Broker, Proxy, eventually
from runtime.testing_worker import Running, done, expected, feed, floor, stored, worker
from runtime.wire import message_frame
from schemas import subjects


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
