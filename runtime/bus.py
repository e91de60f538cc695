"""The broker: connect, declare, publish, append atomically, ask and answer. It knows nats-py's public side; the other
one is in `runtime/hotpath.py`."""

from __future__ import annotations

import asyncio
import json
import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from secrets import token_hex
from typing import Any, Protocol

import nats
import nats.errors
from nats.aio.msg import Msg

from runtime import wire
from runtime.hotpath import UNSENT_BYTES_MAX, Client, Handler, Hot, Inbox
from runtime.login import connection_options, shown
from runtime.settings import Common
from runtime.wire import Out, Reply

ACK_WAIT_S = 5.0
REQUEST_WAIT_S = 5.0
RECONNECT_WAIT_S = 0.25
REFUSED_WAIT_S = 2.0  # after a refusal (a wrong key, too many connections), beside RECONNECT_WAIT_S
FLUSH_WAIT_S = 2.0
WATCH_INTERVAL_S = 0.5
MESSAGE_BYTES_MAX = 256 * 1024


class Unavailable(Exception):
    """The broker did not answer, or is away: what was asked may or may not have happened. Worth retrying."""


class WrongSequence(Exception):
    """Somebody else wrote first: what we know of the stream is old. Read it again, then decide again."""


class BusError(Exception):
    """The broker refused, and will refuse again: a wrong set-up or a bug of ours."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Watched(Protocol):
    """A reader that the bus keeps alive."""

    def interrupt(self, why: str) -> None: ...
    def check(self, now_s: float) -> None: ...


Log = Callable[..., None]
OnAnswer = Callable[[Reply | None], None]  # None: the connection was lost

# JetStream error codes, by what they ask of us.
_STALE = {10071, 10164}
_RETRY = {10176, 10210, 10074, 10077, 10008, 10023}
NOT_FOUND = {10059, 10014, 10037}


class Bus:
    """One connection. Everything that waits has a limit; everything that fails says whether a retry helps."""

    def __init__(self, log: Log) -> None:
        self._client = Client()
        self._log = log
        self._told: set[str] = set()  # what was logged since the last connection, to be told once
        self._inbox = f"_INBOX.{token_hex(8)}"
        self._tokens = count(1)
        self._waiting: dict[str, OnAnswer] = {}
        self._readers: list[Watched] = []
        self._connected = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.on_disconnect: list[Callable[[], None]] = []
        self.closed = asyncio.Event()
        self._opened = self._closing = False

    # Connection

    @property
    def connected(self) -> bool:
        return self._connected.is_set() and self._client.is_connected

    @property
    def server_version(self) -> str:
        return self._client.server_version

    @property
    def server(self) -> tuple[str, int] | None:
        """Address and port of the server that we are connected to."""
        url = self._client.connected_url
        return None if url is None or url.hostname is None else (url.hostname, url.port or 4222)

    async def wait_connected(self) -> None:
        await self._connected.wait()

    async def open(self, settings: Common, name: str) -> None:
        """Connect, however long the broker stays away; cancel to give up. Raises SettingsError."""
        options = connection_options(settings)

        async def lost() -> None:
            self._connected.clear()
            self._fail_waiting()
            if self._closing:
                return
            for reader in list(self._readers):
                reader.interrupt("connection lost")
            for callback in self.on_disconnect:
                callback()
            self._log("broker_lost")

        async def back() -> None:
            self._told.clear()
            self._connected.set()
            self._log("broker_back")

        async def failed(error: Exception) -> None:
            away = isinstance(error, OSError | TimeoutError) and not isinstance(error, ssl.SSLError)
            reason = f"{type(error).__name__}: {error}"[:300]
            news = not self._told if away else reason not in self._told  # a refusal may end in a reset connection, too
            if news:
                self._told.add(reason)
                self._log("broker_unreachable" if away else "broker_error", reason=reason, at=shown(settings.nats_url))
            if not away and not self._client.is_connected:
                await asyncio.sleep(REFUSED_WAIT_S)

        async def ended() -> None:
            self._connected.clear()
            self.closed.set()

        self._opened = True  # from here on there is something to close, also when we are cancelled
        await self._client.connect(
            servers=settings.nats_url.split(","),
            name=name,
            error_cb=failed,
            disconnected_cb=lost,
            reconnected_cb=back,
            closed_cb=ended,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; nats-py's int is an oversight
            connect_timeout=3,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=2 * UNSENT_BYTES_MAX,
            **options,
        )
        await self._client.subscribe_hot(f"{self._inbox}.*", Hot(self._on_answer, self._handler_failed))
        self._told.clear()
        self._connected.set()
        self._tasks.append(asyncio.create_task(self._keep(), name="bus-keeper"))

    async def close(self) -> None:
        """Flush what is written, then close. Not `drain()`, which waits out its limit on unread pulls."""
        for task in self._tasks:
            task.cancel()
        self._closing = True
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=FLUSH_WAIT_S)  # type: ignore[arg-type]  # a float works
            except (nats.errors.Error, TimeoutError, OSError):
                self._log("broker_flush_timeout")
        if not self._opened:
            return
        try:
            await asyncio.wait_for(self._client.close(), FLUSH_WAIT_S)
        except (nats.errors.Error, TimeoutError, OSError):
            self._log("broker_close_timeout")
        self._fail_waiting()

    async def _keep(self) -> None:
        """Keep readers asking, and notice a read loop that died while the connection looks well (nats.py#914)."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._client.reads_no_more:
                self._log("broker_read_loop_died")
                await self._client.force_reconnect()
                continue
            for reader in list(self._readers):
                reader.check(loop.time())

    # Writing

    async def publish(self, subject: str, data: bytes, *, message_id: str = "", headers: bytes = b"") -> int:
        """Store one message and return its sequence. Raises Unavailable, WrongSequence, BusError."""
        if message_id:
            headers += f"Nats-Msg-Id: {message_id}\r\n".encode()
        message = await self._ask_raw(lambda reply: wire.message_frame(subject, reply, headers, data), ACK_WAIT_S)
        return judge(message).seq

    async def append(self, messages: Sequence[Out], *, expect_last: int | None = None) -> int:
        """Store up to 1,000 messages of one stream, whole or not at all; return the first one's sequence.

        They are contiguous. Raises WrongSequence when an expectation is stale, Unavailable when the outcome is
        unknown: then read the stream back before trying again.
        """
        batch_id = f"{self._inbox[7:]}{next(self._tokens)}"
        answer = judge(
            await self._ask_raw(lambda reply: wire.batch_frames(messages, batch_id, reply, expect_last), ACK_WAIT_S)
        )
        if answer.count != len(messages):
            raise BusError(f"a batch of {len(messages)} was answered with a count of {answer.count}")
        return answer.seq - answer.count + 1

    def write(self, frames: bytes) -> None:
        """Hand prepared frames to the socket's buffer without waiting. Raises Unavailable while disconnected:
        nats-py would keep them and send them after their time."""
        if not self.connected:
            raise Unavailable("not connected to the broker")
        if not self._client.write(frames):
            raise Unavailable("the socket to the broker does not drain")

    def tell(self, subject: str, data: bytes) -> None:
        """Publish on a plain subject; nobody need be listening, and nothing is kept."""
        self.write(wire.message_frame(subject, "", b"", data))

    # Asking and answering

    async def _ask_raw(self, frames: Callable[[str], bytes], wait_s: float) -> Reply:
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def settle(answer: Reply | None) -> None:
            if not future.done():
                future.set_result(answer)

        token = self.post(frames, settle)
        try:
            async with asyncio.timeout(wait_s):  # wait_for of Python 3.11 may swallow a cancellation
                answer = await future
        except TimeoutError:
            raise Unavailable(f"no answer from the broker within {wait_s:g} s") from None
        finally:
            self._waiting.pop(token, None)
        if answer is None:
            raise Unavailable("the connection to the broker was lost")
        return answer

    def post(self, frames: Callable[[str], bytes], on_answer: OnAnswer) -> str:
        """Write what `frames` makes of a reply subject; the answer, or None when the connection goes, comes once to
        `on_answer`, which must be quick. Raises Unavailable."""
        token = str(next(self._tokens))
        self.write(frames(f"{self._inbox}.{token}"))
        self._waiting[token] = on_answer
        return token

    def _on_answer(self, subject: bytes, _: bytes, header_block: bytes, data: bytes) -> None:
        callback = self._waiting.pop(subject.rpartition(b".")[2].decode(), None)
        if callback is not None:
            callback(Reply(header_block, data))

    def _handler_failed(self, error: Exception) -> None:
        self._log("handler_failed", reason="".join(traceback.format_exception(error))[-1000:])

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for callback in waiting.values():
            callback(None)

    async def request(self, subject: str, data: bytes, timeout_s: float = REQUEST_WAIT_S) -> bytes:
        """Ask whoever answers on a plain subject. Raises Unavailable."""
        answer = await self._ask_raw(lambda reply: wire.message_frame(subject, reply, b"", data), timeout_s)
        if wire.status_of(answer.header_block) == "503":
            raise Unavailable(f"nobody answers on {subject}")
        return answer.data

    async def answer(self, subject: str, handler: Callable[[bytes], Awaitable[bytes | None]]) -> None:
        """Answer requests on a plain subject, now and after every reconnect; None leaves it to somebody else."""

        async def respond(message: Msg) -> None:
            try:
                answer = await handler(message.data)
                if answer is not None:
                    self.tell(message.reply, answer)
            except Unavailable:
                self._log("answer_lost", subject=subject)

        await self._client.subscribe(subject, cb=respond)

    async def listen(self, subject: str, handler: Callable[[str, bytes], None]) -> None:
        """Hear a plain subject: a hint, never the truth, which lies in streams."""

        async def hear(message: Msg) -> None:
            handler(message.subject, message.data)

        await self._client.subscribe(subject, cb=hear)

    async def api(
        self, subject: str, payload: Mapping[str, Any] | None = None, timeout_s: float = REQUEST_WAIT_S
    ) -> dict[str, Any]:
        """JetStream's API. Raises BusError with the code, or Unavailable."""
        body = b"" if payload is None else json.dumps(payload).encode()
        return api_answer(subject, await self.request(f"$JS.API.{subject}", body, timeout_s))

    async def stream_info(self, name: str) -> dict[str, Any]:
        return await self.api(f"STREAM.INFO.{name}")

    async def consumer_info(self, stream: str, name: str) -> dict[str, Any]:
        return await self.api(f"CONSUMER.INFO.{stream}.{name}")

    # For runtime/readers.py

    async def subscribe_inbox(self, on_message: Handler, on_failure: Callable[[str], None]) -> Inbox:
        """A subject of our own. on_message: quick and plain, see runtime/hotpath.py; on_failure: is told that it
        raised, so that a message was lost."""

        def failed(error: Exception) -> None:
            self._handler_failed(error)
            on_failure(f"{type(error).__name__}: {error}")

        return await self._client.subscribe_hot(f"{self._inbox}-{next(self._tokens)}", Hot(on_message, failed))

    def attach(self, reader: Watched) -> None:
        self._readers.append(reader)

    def detach(self, reader: Watched) -> None:
        if reader in self._readers:
            self._readers.remove(reader)


def api_answer(subject: str, data: bytes) -> dict[str, Any]:
    """What JetStream's API answered. Raises BusError with the code, or Unavailable."""
    response: dict[str, Any] = json.loads(data)
    error = response.get("error")
    if error:
        code = error.get("err_code", 0)
        if error.get("code") in (503, 429):
            raise Unavailable(f"{subject}: {error.get('description')}")
        raise BusError(f"{subject}: {error.get('description')} ({code})", code)
    return response


def judge(reply: Reply) -> wire.Answer:
    """What the broker says of a publication. Raises WrongSequence, Unavailable, BusError."""
    if wire.status_of(reply.header_block) == "503":
        raise Unavailable("no stream took the message")
    try:
        answer = wire.decode_answer(reply.data)
    except ValueError as error:
        raise BusError(f"an acknowledgement that cannot be read: {reply.data[:100]!r}") from error
    refusal = answer.error
    if refusal is None:
        return answer
    if refusal.err_code in _STALE:
        raise WrongSequence(refusal.description)
    if refusal.err_code in _RETRY or refusal.code in (429, 503):
        raise Unavailable(f"{refusal.description} ({refusal.err_code})")
    raise BusError(f"{refusal.description} ({refusal.err_code})", refusal.err_code)
