"""The hot path to a real broker: every message, with TLS, with a proxy that cuts, and with handlers that raise."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import readers, wire
from runtime import testing as kit
from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import broker_config
from runtime.readers import DurableReader, Follower, Interrupted, read
from runtime.settings import Common
from runtime.testing import Broker, Proxy, eventually
from runtime.wire import Out
from runtime.worker import first_of
from schemas import subjects

ODD = [b"", b"\r\n", b"\r\nMSG a 3 5\r\n", bytes(range(256)), b"x" * 100_000, b"\r\nPING\r\n", b"HMSG"] * 30


def odd_messages() -> list[Out]:
    return [
        Out(f"decisions.SNIPER.m{i}", data, wire.trace_headers(f"{i:032x}") if i % 2 else b"")
        for i, data in enumerate(ODD)
    ]


async def take_all(reader: DurableReader, wanted: int, cut: Callable[[], None] = lambda: None) -> list[wire.In]:
    """Read and acknowledge until so many came, each once, starting again whenever it must. cut: called after each
    twenty messages or so."""
    found: list[wire.In] = []
    async with asyncio.timeout(60):
        while len(found) < wanted:
            reader.ready.clear()
            try:
                taken = reader.take(20)
            except Interrupted:
                await eventually(lambda: started(reader), "the reader to start")
                continue
            found += [each for each in taken if not found or each.sequence > found[-1].sequence]
            if taken:
                reader.acknowledge(taken[-1])
                cut()
            else:
                await first_of(reader.ready)
    return found


async def started(reader: DurableReader) -> bool:
    try:
        await reader.start()
    except readers.Unavailable:
        return False
    return True


async def test_messages_of_readers_and_answers_pass_by_nats_pys_own_path(bus: Bus, monkeypatch: Any) -> None:
    passed: list[int] = []
    monkeypatch.setattr(bus._client, "_process_msg", lambda sid, *_: passed.append(sid))
    await bus.append(odd_messages())
    stored = await read(bus, "DECISIONS", after_sequence=0)
    assert [each.data for each in stored] == ODD
    assert passed == []
    assert all(sub._pending_queue.empty() for sub in bus._client._subs.values())


@pytest.fixture
def tls_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that speaks TLS only; its certificate is its own authority."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", "key.pem", "-out", "cert.pem",
        ],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    config = tmp_path / "tls.conf"
    config.write_text(
        f'{broker_config().read_text()}\ntls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
    )
    broker = Broker(tmp_path / "broker", config)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
async def tls_bus(tls_broker: Broker, tmp_path: Path) -> AsyncIterator[Bus]:
    opened = Bus(lambda event, **fields: None)
    try:
        await opened.open(
            Common(nats_url=f"tls://127.0.0.1:{tls_broker.port}", nats_ca=str(tmp_path / "cert.pem")), "test"
        )
        await declare(opened, 4)
        yield opened
    finally:
        await opened.close()


async def test_over_tls_every_message_comes_whole_and_in_order(tls_bus: Bus) -> None:
    await tls_bus.append(odd_messages())
    stored = await read(tls_bus, "DECISIONS", after_sequence=0)
    assert [each.data for each in stored] == ODD
    assert [each.headers.get("traceparent", "")[3:35] for each in stored] == [
        f"{i:032x}" if i % 2 else "" for i in range(len(ODD))
    ]


async def test_a_reader_gets_everything_in_order_while_the_connection_is_cut_in_the_middle_of_messages(
    broker: Broker,
) -> None:
    async with Proxy(broker) as proxy, kit.bus(proxy) as bus:
        await bus.append(odd_messages())
        proxy.delay_s = 0.002  # of each 64 KiB: there is always more on its way
        reader = DurableReader(bus, subjects.DISPATCH)
        follower = Follower(bus, "DECISIONS", after_sequence=0)
        held_when_cut = []

        def cut() -> None:
            if proxy.cuts < 8:
                proxy.cut()
                held_when_cut.append(bus._client._hotpath._missing)

        found = await take_all(reader, len(ODD), cut)
        followed: list[wire.In] = []
        while len(followed) < len(ODD):
            followed += await follower.more()
        assert [each.data for each in found] == ODD
        assert [each.data for each in followed] == ODD
        assert max(held_when_cut) > 0, "no cut fell into a message"
        await reader.close()
        await follower.close()


async def test_across_a_broker_that_dies_the_inboxes_are_hot_again(broker: Broker, bus: Bus, monkeypatch: Any) -> None:
    follower = Follower(bus, "DECISIONS", after_sequence=0)
    with broker.stopped():
        await eventually(lambda: not bus.connected, "the loss to be noticed")
    await eventually(lambda: bus.connected, "the connection to be back")
    passed: list[int] = []
    monkeypatch.setattr(bus._client, "_process_msg", lambda sid, *_: passed.append(sid))
    await bus.append(odd_messages())
    found: list[wire.In] = []
    while len(found) < len(ODD):
        found += await follower.more()
    assert [each.data for each in found] == ODD
    assert passed == []
    await follower.close()


async def test_a_reader_whose_handler_raises_is_interrupted_and_the_connection_lives(
    broker: Broker, monkeypatch: Any
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    bus = Bus(lambda event, **fields: told.append((event, fields)))
    await bus.open(Common(nats_url=broker.url), "test")
    await declare(bus, 4)
    reading = bus._client._reading_task
    reader = DurableReader(bus, subjects.DISPATCH)
    await reader.start()
    with monkeypatch.context() as broken:
        broken.setattr(readers, "parse_delivery", lambda reply: 1 // 0)
        await bus.append([Out("decisions.SNIPER.a", b"a"), Out("decisions.SNIPER.b", b"b")])
        await eventually(lambda: interrupted(reader), "the reader to be interrupted")
    assert [event for event, _ in told] == ["handler_failed"]
    assert "ZeroDivisionError" in told[0][1]["reason"]
    assert bus._client._reading_task is reading
    assert bus.connected
    assert [each.data for each in await take_all(reader, 2)] == [b"a", b"b"]
    await reader.close()
    await bus.close()


def interrupted(reader: DurableReader) -> bool:
    try:
        reader.take(0)
    except Interrupted as error:
        return "ZeroDivisionError" in str(error)
    return False


async def test_an_answer_whose_callback_raises_takes_nothing_else_with_it(bus: Bus) -> None:
    def refuse(_: wire.Reply | None) -> None:
        raise ValueError("no")

    bus.post(lambda reply: wire.message_frame("$JS.API.INFO", reply, b"", b""), refuse)
    assert json.loads(await bus.request("$JS.API.INFO", b""))["type"].endswith("account_info_response")
    assert bus._waiting == {}


async def test_an_inbox_that_is_closed_is_forgotten(bus: Bus) -> None:
    before = dict(bus._client._hotpath.hot)
    await read(bus, "DECISIONS", after_sequence=0)
    assert bus._client._hotpath.hot == before
