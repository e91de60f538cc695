"""The hot path behind nats-py: whole messages go from the read buffer to plain functions, with nothing in between.
The only module that knows nats-py's insides.

nats-py parses every message's headers, makes an object of it and puts it into a queue, from which a task takes it and
awaits a callback: two thirds of what a received message cost this side (`bench/receive.py`). Here a message of a *hot*
subscription is four slices of bytes and one call. What comes seldom goes on to nats-py's own parser, a whole control
line or a whole message at a time: PING, PONG, INFO, +OK, -ERR, and the messages of all other subscriptions.

Hot subscriptions have no limit of pending messages, and no slow-consumer error: their handlers must be quick, and must
bound what they keep, as a reader does by asking for no more than it has room for.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import nats.aio.client
import nats.errors
from nats.protocol.parser import Parser

# subject, reply subject or b"", the whole header block or b"", data
Handler = Callable[[bytes, bytes, bytes, bytes], None]

# What nats-py's own parser takes for a message's first line (but that white space may not hold the end of a line).
_MSG = re.compile(rb"MSG[ \t]+(\S+)[ \t]+(\d+)[ \t]+(?:(\S+)[ \t]+)?()(\d+)\r\n")
_HMSG = re.compile(rb"HMSG[ \t]+(\S+)[ \t]+(\d+)[ \t]+(?:(\S+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")
_M, _H = b"MH"

LINE_BYTES_MAX = 1 << 20  # an INFO that lists a whole cluster has some kilobytes
UNSENT_BYTES_MAX = 64 << 20  # written by us, not yet taken by the socket
MESSAGE_BYTES_MAX = 64 << 20  # nats-server allows no max_payload beyond it


class Hot(NamedTuple):
    """A hot subscription. failed: what to do when the handler raised; it must not raise itself."""

    handler: Handler
    failed: Callable[[Exception], None]


class HotParser:
    """Takes the place of nats-py's parser in its client, which calls `parse` for what it read and `reset` when the
    connection goes. hot: by the number of the subscription, as it is written on the wire."""

    def __init__(self, stock: Parser) -> None:
        self.hot: dict[bytes, Hot] = {}
        self._stock = stock
        self._held: list[bytes] = []  # the beginning of a line or message whose end has not come
        self._missing = 0  # bytes of it, at least
        self._life = 0  # counts connections

    def reset(self) -> None:
        self._held, self._missing = [], 0
        self._life += 1
        self._stock.reset()

    async def parse(self, data: bytes = b"") -> None:
        """Raises ConnectionError for what no server sends, and what nats-py's parser raises: a ProtocolError mostly.
        Either makes nats-py connect anew."""
        if self._held:
            self._held.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._held = b"".join(self._held), []
        life, at = self._life, 0
        while at < len(data):
            at, end = self._deliver(data, at)
            if end > len(data):
                self._held, self._missing = [data[at:]], end - len(data)
                return
            if end > at:
                await self._stock.parse(data[at:end])
                if self._life != life:
                    return  # the connection that this was read from is gone
                at = end

    def _deliver(self, data: bytes, at: int) -> tuple[int, int]:
        """Hand out hot messages from `at` on. Returns where that came to its end, and where the line or message there
        ends: the same place at the end of the data, behind it when there is more to come."""
        size, hot = len(data), self.hot
        while at < size:
            kind = data[at]
            line = _HMSG.match(data, at) if kind == _H else _MSG.match(data, at) if kind == _M else None
            if line is None:
                return at, _end_of_line(data, at)
            subject, sid, reply, header_bytes, message_bytes = line.groups()
            start = line.end()
            end = start + int(message_bytes)
            subscription = hot.get(sid)
            if subscription is None or end + 2 > size:
                if end - start > MESSAGE_BYTES_MAX:
                    raise ConnectionError(f"a message of {end - start} bytes")
                return at, end + 2
            body = start + int(header_bytes or 0)
            try:
                subscription.handler(subject, reply or b"", data[start:body], data[body:end])
            except Exception as error:
                subscription.failed(error)
            at = end + 2
        return at, at


def _end_of_line(data: bytes, at: int) -> int:
    """Raises ConnectionError for a line that does not come to its end."""
    end = data.find(b"\r\n", at)
    if end >= 0:
        return end + 2
    if len(data) - at > LINE_BYTES_MAX:
        raise ConnectionError(f"a line of more than {LINE_BYTES_MAX} bytes")
    return len(data) + 1


class Client(nats.aio.client.Client):
    """nats-py's client, which keeps TLS, login, reconnecting and subscribing anew; four of its ways are ours.

    Whatever is private to nats-py is named here and nowhere else, as the pinned version has it; `test_bus_contract.py`
    fails when another one changes it.

        _ps, _sid                    The parser that the read loop feeds, and the number of the newest subscription.
        _pending, _pending_data_size, _flush_queue
                                     What waits to be written. A whole atomic batch is put there as one piece: four
                                     times fewer cycles than a publish a message.
        _reading_task                Tells a dead read loop, which nats-py itself notices only minutes later.
        _process_err, _process_op_err, _error_cb
                                     It would give up for good on most errors that a server sends (a login taken
                                     away and given back, say).
        _connect_command, _server_info
                                     It would go on in plain text where TLS is wanted and the server has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hotpath = HotParser(self._ps)
        self._ps = self._hotpath  # type: ignore[assignment]  # only `parse` and `reset` of it are called

    async def subscribe_hot(self, subject: str, hot: Hot) -> Inbox:
        """Messages come to a plain function, inside the read loop, also after each reconnect."""
        sid = b"%d" % (self._sid + 1)  # `subscribe` takes this one before it waits for anything
        self._hotpath.hot[sid] = hot
        try:
            return Inbox(subject, await self.subscribe(subject), lambda: self._hotpath.hot.pop(sid, None))
        except BaseException:
            del self._hotpath.hot[sid]
            raise

    def write(self, frames: bytes) -> bool:
        """Hand frames to the flusher, which writes all of a loop's turn at once; False where too much waits."""
        if self._pending_data_size > UNSENT_BYTES_MAX:
            return False
        self._pending.append(frames)
        self._pending_data_size += len(frames)
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    @property
    def reads_no_more(self) -> bool:
        return self.is_connected and self._reading_task is not None and self._reading_task.done()

    @property
    def server_version(self) -> str:
        return str(self._server_info.get("version", ""))

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)

    def _connect_command(self) -> bytes:
        if "tls" in self.options and not self._server_info.get("tls_required"):
            raise nats.errors.Error("TLS is wanted, and the broker does not ask for it; nothing was sent to it")
        return super()._connect_command()


class Inbox:
    """A subject of our own that a reader's messages come to."""

    def __init__(self, subject: str, subscription: Any, forget: Callable[[], object]) -> None:
        self.subject = subject
        self._subscription = subscription
        self._forget = forget

    async def close(self) -> None:
        self._forget()
        with contextlib.suppress(nats.errors.Error):  # the connection is gone, and the subscription with it
            await self._subscription.unsubscribe()
