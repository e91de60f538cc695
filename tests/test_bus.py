"""The bus against a real nats-server: atomic batches, fences, readers in order, and brokers that die."""

from __future__ import annotations

import asyncio
import signal

import pytest

from runtime import buckets
from runtime.bus import Bus, BusError, Unavailable, WrongSequence
from runtime.declare import declare, differences
from runtime.readers import DurableReader, Follower, Interrupted, message_after, read
from runtime.testing import Broker, eventually
from runtime.testing import bus as open_bus
from runtime.wire import In, Out, Reply, parse_delivery
from schemas import subjects


def outs(*names: str) -> list[Out]:
    return [Out(f"decisions.SNIPER.{name}", name.encode()) for name in names]


async def take(reader: DurableReader, wanted: int) -> list[bytes]:
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(message.data for message in reader.take(wanted - len(found)))
        return len(found) >= wanted

    await eventually(enough, f"{wanted} messages")
    return found


async def test_declaring_twice_changes_nothing_and_finds_no_difference(bus: Bus) -> None:
    assert await declare(bus, 4) == []
    assert await declare(bus, 4) == []


async def test_a_difference_between_wanted_and_actual_is_told_by_name(bus: Bus) -> None:
    config = (await bus.stream_info("TOKENS"))["config"]
    await bus.api("STREAM.UPDATE.TOKENS", {**config, "max_bytes": 1_000_000})
    drift = await declare(bus, 4)
    assert drift == [f"stream TOKENS: max_bytes is 1000000, wanted {subjects.TOKENS.bytes_max}"]


def test_a_field_left_out_by_the_server_has_its_zero_value() -> None:
    assert differences("x", {"a": 0, "b": False, "c": ""}, {}) == []
    assert differences("x", {"a": 1}, {}) == ["x: a is 0, wanted 1"]


async def test_the_partition_of_a_user_is_the_servers(bus: Bus) -> None:
    users = ["1", "200", "alice", "Z-z_9", "x" * 64]
    await bus.append([Out(f"signals.{user}", b"{}") for user in users])
    stored = [message.subject for message in await read(bus, "SIGNALS", after_sequence=0)]
    assert stored == [f"signals.{subjects.partition(user, 4)}.{user}" for user in users]


async def test_a_batch_is_stored_whole_and_contiguous(bus: Bus) -> None:
    assert await bus.append(outs("a", "b", "c"), expect_last=0) == 1
    assert await bus.append(outs("d")) == 4
    assert [m.data for m in await read(bus, "DECISIONS", after_sequence=0)] == [b"a", b"b", b"c", b"d"]


async def test_a_thousand_messages_are_one_batch_and_one_more_is_refused_here(bus: Bus) -> None:
    assert await bus.append(outs(*(f"m{i}" for i in range(1000)))) == 1
    with pytest.raises(ValueError, match="1 to 1000"):
        await bus.append(outs(*(f"m{i}" for i in range(1001))))


async def test_a_batch_on_an_old_view_of_the_stream_is_refused_whole(bus: Bus) -> None:
    await bus.append(outs("a"))
    with pytest.raises(WrongSequence):
        await bus.append(outs("b", "c"), expect_last=0)
    assert (await bus.stream_info("DECISIONS"))["state"]["messages"] == 1


async def test_one_stale_user_refuses_the_whole_batch_through_the_partition_transform(bus: Bus) -> None:
    await bus.append([Out("fills.1", b"first", expect=0)])
    with pytest.raises(WrongSequence):
        await bus.append([Out("fills.2", b"x", expect=0), Out("fills.1", b"second", expect=0)])
    await bus.append([Out("fills.2", b"x", expect=0), Out("fills.1", b"second", expect=1)])
    assert (await bus.stream_info("FILLS"))["state"]["messages"] == 3


async def test_publishing_to_no_stream_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable):
        await bus.publish("nowhere", b"x")


async def test_a_repeated_id_is_stored_once(bus: Bus) -> None:
    first = await bus.publish("tokens.created.m", b"x", message_id="1")
    assert await bus.publish("tokens.created.m", b"x", message_id="1") == first


async def test_a_durable_reader_goes_on_from_what_was_acknowledged(bus: Bus) -> None:
    await bus.append(outs("a", "b", "c"))
    reader = DurableReader(bus, subjects.DISPATCH)
    assert await reader.start() == 0
    await eventually(lambda: reader.buffered == 3, "three messages")
    messages = reader.take(10)
    reader.acknowledge(messages[1])
    await eventually(lambda: _floor(bus, 2), "the acknowledgement")
    assert await reader.start() == 2
    assert await take(reader, 1) == [b"c"]
    await reader.close()


async def test_a_reader_knows_how_old_its_oldest_unacknowledged_message_is(bus: Bus) -> None:
    for name in "abcd":
        await bus.append(outs(name))
    at_ns = [message.at_ns for message in await read(bus, "DECISIONS", after_sequence=0)]
    reader = DurableReader(bus, subjects.DISPATCH)
    assert reader.oldest_at_ns is None
    await reader.start()
    await eventually(lambda: reader.buffered == 4, "four messages")
    assert reader.oldest_at_ns == at_ns[0]
    _, second, third = reader.take(3)
    fourth = reader.take(1)[0]
    assert reader.oldest_at_ns == at_ns[0]
    reader.acknowledge(second)
    assert at_ns[1] <= (reader.oldest_at_ns or 0) <= at_ns[2]
    reader.acknowledge(third)
    assert reader.oldest_at_ns == at_ns[3] == fourth.at_ns
    reader.interrupt("a test")
    assert reader.oldest_at_ns == at_ns[3], "an interruption makes nothing younger"
    await reader.start()
    last = (await _next(reader))[-1]
    assert reader.oldest_at_ns is not None
    reader.acknowledge(last)
    assert reader.oldest_at_ns is None
    await reader.close()


async def _next(reader: DurableReader) -> list[In]:
    """Whatever comes up to the fourth message."""
    await eventually(lambda: reader.buffered > 0, "a message")
    found = reader.take(10)
    while found[-1].sequence < 4:
        await eventually(lambda: reader.buffered > 0, "another message")
        found += reader.take(10)
    return found


async def test_a_reader_keeps_reading_past_many_pulls(bus: Bus) -> None:
    reader = DurableReader(bus, subjects.DISPATCH)
    await reader.start()
    total = 0
    for round_ in range(4):
        await bus.append(outs(*(f"{round_}-{i}" for i in range(900))))

    def enough() -> bool:
        nonlocal total
        taken = reader.take(5000)
        if taken:
            reader.acknowledge(taken[-1])
        total += len(taken)
        return total == 3600

    await eventually(enough, "3,600 messages")
    await reader.close()


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
async def test_a_reader_misses_nothing_and_goes_on_in_order(broker: Broker, bus: Bus, fault: str) -> None:
    reader = DurableReader(bus, subjects.DISPATCH)
    await reader.start()
    await bus.append(outs("a", "b"))
    await eventually(lambda: reader.buffered == 2, "two messages")
    messages = reader.take(2)
    reader.acknowledge(messages[0])
    await eventually(lambda: _floor(bus, 1), "the acknowledgement")
    if fault == "stopped":
        with broker.stopped():
            await eventually(lambda: not bus.connected, "the loss to be noticed")
    else:
        with broker.frozen():
            await eventually(lambda: _interrupted(reader), "the silence to be noticed")
    await eventually(lambda: bus.connected, "the connection to be back")
    assert _interrupted(reader)
    floor = await reader.start()
    await bus.append(outs("c"))
    # A killed server may have forgotten the newest floor: then `a` is repeated, still in order.
    expected = [b"a", b"b", b"c"][floor:]
    assert floor in (0, 1)
    assert await take(reader, len(expected)) == expected
    await reader.close()


async def _floor(bus: Bus, sequence: int) -> bool:
    info = await bus.consumer_info("DECISIONS", "dispatch")
    return bool(info["ack_floor"]["stream_seq"] == sequence)


def _interrupted(reader: DurableReader) -> bool:
    try:
        reader.take(0)
    except Interrupted:
        return True
    return False


async def test_a_follower_reads_each_message_once_across_a_broker_that_dies(broker: Broker, bus: Bus) -> None:
    follower = Follower(bus, "DECISIONS", after_sequence=0)
    await bus.append(outs("a", "b"))
    found: list[bytes] = []

    def enough(count: int) -> bool:
        found.extend(message.data for message in follower.take())
        return len(found) >= count

    await eventually(lambda: enough(2), "two messages")
    with broker.stopped():
        await eventually(lambda: not bus.connected, "the loss to be noticed")
    await eventually(lambda: bus.connected, "the connection to be back")
    await bus.append(outs("c"))
    await eventually(lambda: enough(3), "the third message")
    assert found == [b"a", b"b", b"c"]
    await follower.close()


async def test_reading_from_a_time_begins_with_what_was_stored_then(bus: Bus) -> None:
    await bus.append(outs("a", "b"))
    second = (await read(bus, "DECISIONS", after_sequence=1))[0]
    await bus.append(outs("c"))
    assert [m.data for m in await read(bus, "DECISIONS", since_ns=second.at_ns)][-1] == b"c"
    assert [m.data for m in await read(bus, "DECISIONS", since_ns=second.at_ns + 60_000_000_000)] == []


async def test_the_message_behind_a_sequence_is_found_past_deleted_ones(bus: Bus) -> None:
    await bus.append(outs("a", "b", "c"))
    await bus.api("STREAM.MSG.DELETE.DECISIONS", {"seq": 2})
    found = await message_after(bus, "DECISIONS", 1)
    assert found is not None
    assert (found.sequence, found.data) == (3, b"c")
    stored = (await read(bus, "DECISIONS", after_sequence=2))[0]
    assert found.at_ns == stored.at_ns
    assert await message_after(bus, "DECISIONS", 3) is None


async def test_a_bucket_holds_the_newest_value_and_refuses_an_old_view(bus: Bus) -> None:
    first = await buckets.put(bus, "bots", "5", b"one", expected_revision=0)
    with pytest.raises(WrongSequence):
        await buckets.put(bus, "bots", "5", b"two", expected_revision=0)
    await buckets.put(bus, "bots", "5", b"two", expected_revision=first)
    entry = await buckets.get(bus, "bots", "5")
    assert entry is not None
    assert entry.data == b"two"
    await buckets.delete(bus, "bots", "5", expected_revision=entry.revision)
    assert await buckets.get(bus, "bots", "5") is None
    assert await buckets.get(bus, "bots", "6") is None


async def test_a_bucket_can_be_followed_from_its_present_state(bus: Bus) -> None:
    await buckets.put_many(bus, "watch", [("a.m1", b"1"), ("a.m2", b"2"), ("a.m1", b"3")])
    follower = buckets.follow(bus, "watch")
    changes = [buckets.change(message) for message in await _some(follower)]
    assert {change.key: change.data for change in changes} == {"a.m2": b"2", "a.m1": b"3"}
    await buckets.delete(bus, "watch", "a.m2")
    later = [buckets.change(message) for message in await _some(follower)]
    assert [(change.key, change.data) for change in later] == [("a.m2", None)]
    await follower.close()


async def _some(follower: Follower) -> list:  # type: ignore[type-arg]
    found: list = []  # type: ignore[type-arg]

    def any_() -> bool:
        found.extend(follower.take())
        return bool(found)

    await eventually(any_, "a message")
    return found


async def test_writing_while_the_broker_is_away_is_refused_at_once(broker: Broker, bus: Bus) -> None:
    with broker.stopped():
        await eventually(lambda: not bus.connected, "the loss to be noticed")
        with pytest.raises(Unavailable):
            await bus.append(outs("a"))
    await eventually(lambda: bus.connected, "the connection to be back")
    await bus.append(outs("a"))
    assert (await bus.stream_info("DECISIONS"))["state"]["messages"] == 1


async def test_a_request_in_flight_fails_when_the_connection_goes(broker: Broker, bus: Bus) -> None:
    broker.signal(signal.SIGSTOP)
    asked = asyncio.create_task(bus.append(outs("a")))
    await asyncio.sleep(0)
    with broker.stopped(), pytest.raises(Unavailable):
        await asked
    await eventually(lambda: bus.connected, "the connection to be back")


async def test_a_cancellation_at_the_moment_of_the_answer_is_not_swallowed(bus: Bus) -> None:
    asked = asyncio.create_task(bus.api("INFO"))
    await asyncio.sleep(0)
    (settle,) = bus._waiting.values()
    settle(Reply(b"", b"{}"))
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert bus._waiting == {}


async def test_a_dead_read_loop_is_noticed_and_cured(bus: Bus) -> None:
    dead = bus._client._reading_task
    dead.cancel()
    await eventually(lambda: bus._client._reading_task is not dead and bus.connected, "a new connection")
    await bus.append(outs("a"))


async def test_asking_and_answering_on_a_plain_subject(broker: Broker, bus: Bus) -> None:
    async def shout(data: bytes) -> bytes:
        return data.upper()

    await bus.answer("observer.test", shout)
    async with open_bus(broker) as other:
        assert await other.request("observer.test", b"hello") == b"HELLO"
        with pytest.raises(Unavailable, match="nobody answers"):
            await other.request("observer.nobody", b"")


async def test_a_consumer_that_does_not_exist_is_an_error_of_ours(bus: Bus) -> None:
    reader = DurableReader(bus, subjects.Consumer(stream="DECISIONS", name="nobody", subject="decisions.>"))
    with pytest.raises(BusError):
        await reader.start()
    await reader.close()


def test_both_forms_of_an_acknowledgement_subject_are_read() -> None:
    short = parse_delivery(b"$JS.ACK.S.c.1.22.3.1700000000000000000.4")
    long = parse_delivery(b"$JS.ACK.dom.acc.S.c.1.22.3.1700000000000000000.4.tok")
    assert short == long
    assert short is not None
    assert (short.sequence, short.number, short.pending) == (22, 3, 4)
    assert parse_delivery(b"_INBOX.1") is None


async def test_a_bus_that_was_never_opened_can_be_closed() -> None:
    await Bus(lambda event, **fields: None).close()
