"""The hot path: whatever bytes come and however they are cut, handlers get what nats-py's own parser would give."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from runtime import hotpath, wire
from runtime.hotpath import Hot, HotParser

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
