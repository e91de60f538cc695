"""What a worker cannot decide, on a real nats-server: it goes to DEAD whole and once, and the rest goes on."""

import base64

import pytest

from runtime import wire
from runtime.bus import Bus
from runtime.readers import read
from runtime.testing import Broker, Proxy
from runtime.testing_worker import done, expected, feed, stored, worker
from runtime.wire import Out
from schemas.codec import Decoder
from schemas.events import DeadLetter

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


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
