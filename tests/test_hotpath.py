"""The hot path: whatever bytes come and however they are cut, handlers get what nats-py's own parser would give; then
the same through a real broker, with TLS, with a proxy that cuts, and with handlers that raise."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from runtime import hotpath, readers, wire
from runtime import testing as kit
from runtime.bus import Bus
from runtime.declare import declare
from runtime.embedded import broker_binary, broker_config
from runtime.hotpath import Hot, HotParser
from runtime.readers import DurableReader, Follower, Interrupted, read
from runtime.settings import Common
from runtime.testing import Broker, Proxy, eventually
from runtime.wire import Out
from runtime.worker import first_of
from schemas import subjects

HOT, COLD = (3, 41), (1, 4, 341)


class Heard:
    """Stands in for nats-py's client, and for hot handlers: everything that a parser hands out, in order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        await asyncio.sleep(0)
        self.all.append((sid, subject, reply, headers or b"", data))

    async def _process_ping(self) -> None:
        await asyncio.sleep(0)
        self.all.append("ping")

    async def _process_pong(self) -> None:
        self.all.append("pong")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.all.append(info)

    async def _process_err(self, text: str) -> None:
        self.all.append(text)

    def hot(self, sid: int) -> Hot:
        def hear(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
            self.all.append((sid, subject, reply, headers, data))

        return Hot(hear, self.all.append)


def parser(heard: Heard) -> HotParser:
    made = HotParser(Parser(heard))
    made.hot = {b"%d" % sid: heard.hot(sid) for sid in HOT}
    return made


def message(sid: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    name = b"%s %d %s" % (subject, sid, reply + b" " if reply else b"")
    if headers:
        return b"HMSG %s%d %d\r\n%s%s\r\n" % (name, len(headers), len(headers) + len(data), headers, data)
    return b"MSG %s%d\r\n%s\r\n" % (name, len(data), data)


CONTROL = (
    b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Stale Connection'\r\n",
    b'INFO {"server_id": "MSG a 3 5", "max_payload": 262144}\r\n',
)  # fmt: skip
HEADERS = (
    b"", b"NATS/1.0\r\nTraceparent: 00-1\r\nEmpty:\r\n\r\n", b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 0\r\n\r\n",
)  # fmt: skip
TRICKS = (b"", b"\r\n", b"\r\nMSG a 3 5\r\n", b"\r\nPING\r\n", b"MSG a 3 1\r\nx\r\n", b"HMSG", b"\r", b"x" * 5000)
subject_names = st.sampled_from(
    [b"a", b"decisions.SNIPER.m", b"7", b"_INBOX.x.12", "größe.ü".encode(), b"MSG", b"\xff"]
)
messages = st.builds(
    message,
    st.sampled_from(HOT + COLD),
    subject_names,
    st.sampled_from([b"", b"12", b"$JS.ACK.S.c.1.22.3.1700000000000000000.4"]),
    st.sampled_from(HEADERS),
    st.one_of(st.sampled_from(TRICKS), st.binary(max_size=40)),
)
streams = st.lists(st.one_of(messages, st.sampled_from(CONTROL)), max_size=12).map(b"".join)


async def expected(data: bytes) -> list[Any]:
    heard = Heard()
    await Parser(heard).parse(data)
    return heard.all


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(data=streams, cuts=st.lists(st.integers(min_value=0), max_size=20))
async def test_however_the_bytes_are_cut_all_that_nats_py_would_hand_out_comes_in_order(
    data: bytes, cuts: list[int]
) -> None:
    heard = Heard()
    hot = parser(heard)
    for piece in pieces(data, cuts):
        await hot.parse(piece)
    assert heard.all == await expected(data)


async def test_every_single_cut_and_byte_after_byte_give_the_same() -> None:
    data = b"".join(
        [
            message(3, b"a", b"", b"", b""),
            CONTROL[0],
            message(41, b"a.b", b"12", HEADERS[1], b"\r\nMSG a 3 5\r\n"),
            message(4, b"cold", b"", HEADERS[3], b""),
            CONTROL[4],
            message(3, b"a", b"$JS.ACK.S.c.1.2.3.4.5", HEADERS[2], b""),
            message(1, b"cold", b"r", b"", b"\r\nPING\r\n"),
            CONTROL[3],
        ]
    )
    wanted = await expected(data)
    assert len(wanted) == 8
    for cuts in ([], *([place] for place in range(len(data))), range(len(data))):
        heard = Heard()
        hot = parser(heard)
        for piece in pieces(data, cuts):
            await hot.parse(piece)
        assert heard.all == wanted, cuts


@given(data=streams, cuts=st.lists(st.integers(min_value=0), max_size=20))
async def test_nats_pys_parser_gets_whole_lines_and_messages_only(data: bytes, cuts: list[int]) -> None:
    stock = Parser(Heard())
    hot = HotParser(stock)
    hot.hot = {b"3": Heard().hot(3)}
    for piece in pieces(data, cuts):
        await hot.parse(piece)
        assert (stock.state, bytes(stock.buf)) == (AWAITING_CONTROL_LINE, b"")


@pytest.mark.parametrize("line", [b"NONSENSE\r\n", b"MSG a x 5\r\n", b"HMSG a 3 5\r\n", b"MSG a 3\r\n", b"\r\n"])
async def test_a_line_that_nobody_understands_is_an_error_of_the_protocol_as_for_nats_py(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await Parser(Heard()).parse(line)
    with pytest.raises(ProtocolError):
        await parser(Heard()).parse(message(3, b"a", b"", b"", b"x") + line)


@pytest.mark.parametrize("line", [b"MSG \ta  3\t5\r\n", b"HMSG a\t3  r 0 5\r\n"])
async def test_white_space_between_the_words_may_be_any_as_for_nats_py(line: bytes) -> None:
    heard = Heard()
    await parser(heard).parse(line + b"12345\r\n")
    assert heard.all == await expected(line + b"12345\r\n")
    assert len(heard.all) == 1


async def test_lines_and_messages_have_an_end() -> None:
    hot = parser(Heard())
    await hot.parse(b"I" * hotpath.LINE_BYTES_MAX)
    with pytest.raises(ConnectionError, match="a line of more"):
        await hot.parse(b"I")
    with pytest.raises(ConnectionError, match="a message of"):
        await parser(Heard()).parse(b"MSG a 3 %d\r\n" % (hotpath.MESSAGE_BYTES_MAX + 1))


async def test_a_handler_that_raises_is_told_of_and_the_next_message_comes() -> None:
    heard = Heard()
    hot = parser(heard)
    wrong = ValueError("no")

    def refuse(*_: bytes) -> None:
        raise wrong

    hot.hot[b"3"] = Hot(refuse, heard.all.append)
    await hot.parse(message(3, b"a", b"", b"", b"x") + message(41, b"b", b"", b"", b"y"))
    assert heard.all == [wrong, (41, b"b", b"", b"", b"y")]


async def test_a_new_connection_begins_with_a_clean_buffer() -> None:
    heard = Heard()
    hot = parser(heard)
    await hot.parse(b"MSG a 3 500\r\nhalf")
    hot.reset()
    await hot.parse(message(3, b"a", b"", b"", b"whole"))
    assert heard.all == [(3, b"a", b"", b"", b"whole")]


async def test_what_was_read_behind_an_error_that_ends_the_connection_is_not_handed_out() -> None:
    heard = Heard()
    hot = parser(heard)

    async def end(_: str) -> None:
        hot.reset()

    heard._process_err = end  # type: ignore[method-assign]
    await hot.parse(CONTROL[3] + message(3, b"a", b"", b"", b"of the old connection"))
    assert heard.all == []


# Headers


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", {}),
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0\r\nA: b\r\nC:d:e\r\nA:  \xc3\xbc \r\n\r\n", {"A": "ü", "C": "d:e"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 100 Idle Heartbeat\r\nX: 1\r\n\r\n", {"Status": "100", "Description": "Idle Heartbeat", "X": "1"}),
    ],
)
async def test_headers_are_read_as_nats_py_reads_them(block: bytes, headers: dict[str, str]) -> None:
    assert wire.parse_headers(block) == headers
    assert (await hotpath.Client()._process_headers(block) or {}) == headers
    assert wire.status_of(block) == headers.get("Status", "")


# A real broker

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
    broker = Broker(tmp_path / "broker")
    broker.data_dir.mkdir()
    broker._process = subprocess.Popen(
        [
            broker_binary(), "-c", str(config), "-a", "127.0.0.1", "-p", str(broker.port),
            "-m", str(broker.monitor_port), "-sd", str(broker.data_dir), "-l", str(tmp_path / "nats.log"),
        ]
    )  # fmt: skip
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
