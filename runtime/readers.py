"""Reading streams: a durable consumer strictly in order, and a follower that needs no acknowledgement.

Both use a *standing pull*: one inbox, one callback, and a request for more when half of the last one is left; a fetch
a message would cost eight times as much. Deliveries of a consumer are numbered by the server. A hole in the numbers,
a lost connection or silence past two heartbeats means that messages may have been lost on the way:

    DurableReader   `take` raises Interrupted; the stage starts it again, which resets the consumer to its
                    acknowledged floor, so everything unacknowledged comes again, in order
    Follower        makes itself a new consumer behind the last message that it handed out; nobody notices
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import deque
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from runtime.bus import NOT_FOUND, Bus, BusError, Unavailable
from runtime.hotpath import Inbox
from runtime.telemetry import parse_time_ns
from runtime.wire import In, message_frame, parse_delivery, parse_headers, start_policy
from schemas.subjects import Consumer

PULL_MESSAGES = 500
PULL_EXPIRES_S = 2.0  # less than the time after which a silent member counts as dead (`runtime/members.py`)
HEARTBEAT_S = 1.0
SILENCE_S_MAX = 2.5 * HEARTBEAT_S
FOLLOWER_INACTIVE_S = 30
BUFFERED_MESSAGES_MAX = 4 * PULL_MESSAGES
RETRY_S = 0.25
IDLE_S = 5.0


class Interrupted(Exception):
    """What was being read may have a hole. Start the reader again."""


class _Pull:
    """One standing pull: keeps up to PULL_MESSAGES asked for, checks the numbering, buffers what came."""

    def __init__(self, bus: Bus, stream: str, consumer: str, ready: asyncio.Event) -> None:
        self._bus = bus
        self._ask = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._ready = ready
        self._inbox: Inbox | None = None
        self._asked = 0
        self._number = 0
        self._clock = asyncio.get_running_loop().time
        self._heard_s = 0.0
        self.buffer: deque[In] = deque()
        self.pending: int | None = None
        self.acked = 0  # the reader has acknowledged up to this sequence
        self.broken = ""

    async def open(self) -> None:
        self._inbox = await self._bus.subscribe_inbox(self._on_message, self.fail)
        self._heard_s = self._clock()
        self._more()

    async def close(self) -> None:
        self.broken = self.broken or "closed"
        if self._inbox is not None:
            await self._inbox.close()

    def fail(self, why: str) -> None:
        self.broken = self.broken or why
        self._ready.set()

    def check(self, now_s: float) -> None:
        if not self.broken and now_s - self._heard_s > SILENCE_S_MAX and self._asked > 0:
            self.fail("no heartbeat")

    def taken(self) -> None:
        """The reader took what was buffered: ask again if there is room."""
        self._more()

    def _more(self) -> None:
        wanted = PULL_MESSAGES - self._asked
        if self.broken or self._inbox is None or wanted < PULL_MESSAGES // 2:
            return
        if len(self.buffer) + PULL_MESSAGES > BUFFERED_MESSAGES_MAX:
            return  # back-pressure: the broker keeps what we cannot work on yet
        body = json.dumps(
            {"batch": wanted, "expires": int(PULL_EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        ).encode()
        try:
            self._bus.write(message_frame(self._ask, self._inbox.subject, b"", body))
        except Unavailable as error:
            self.fail(str(error))
            return
        self._asked += wanted
        self._heard_s = self._clock()

    def _on_message(self, subject: bytes, reply: bytes, header_block: bytes, data: bytes) -> None:
        """Runs for each message, inside the read loop: see runtime/hotpath.py."""
        if self.broken:
            return
        self._heard_s = self._clock()
        delivery = parse_delivery(reply)
        if delivery is None:
            self._on_status(parse_headers(header_block))
            return
        delivered, sequence, number, at_ns, pending = delivery
        self._number += 1
        if number != self._number:
            self.fail(f"delivery {number} came where {self._number} was due")
            return
        if delivered > 1 and sequence <= self.acked:
            # An acknowledgement from before a reset, late, makes the broker pass over the next ones for a long time.
            self.fail(f"{sequence} comes again though it is acknowledged")
            return
        self._asked -= 1
        self.pending = pending
        self.buffer.append(In(subject.decode("utf-8", "replace"), data, sequence, at_ns, header_block, reply.decode()))
        self._ready.set()
        if self._asked <= PULL_MESSAGES // 2:
            self._more()

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == "100":
            return
        if status == "408" or (status == "409" and "Batch Completed" in headers.get("Description", "")):
            self._asked -= int(headers.get("Nats-Pending-Messages", 0))
            self._more()
            return
        self.fail(f"{status} {headers.get('Description', '')}".strip())


class DurableReader:
    """A durable consumer, strictly in order from its acknowledged floor. `start` before the first `take`."""

    def __init__(self, bus: Bus, consumer: Consumer, ready: asyncio.Event | None = None) -> None:
        self.consumer = consumer
        self.ready = ready or asyncio.Event()
        self._bus = bus
        self._pull: _Pull | None = None
        self._acked = self._acked_at_ns = 0
        self._unacked: deque[tuple[int, int]] = deque()  # of each `take`: its last sequence, its first message's at_ns
        bus.attach(self)

    async def start(self) -> int:
        """Reset to the acknowledged floor and return it (a stream sequence, 0 for none).

        The floor may lie behind what was acknowledged just before: the server notes floors in its own time.
        Raises Unavailable, or BusError where the consumer does not exist.
        """
        if self._pull is not None:
            await self._pull.close()
        await self._bus.consumer_info(self.consumer.stream, self.consumer.name)  # a reset of nothing gets no answer
        reset = await self._bus.api(f"CONSUMER.RESET.{self.consumer.stream}.{self.consumer.name}")
        self._acked, self._acked_at_ns = int(reset["reset_seq"]) - 1, 0
        self._unacked.clear()
        self._pull = _Pull(self._bus, self.consumer.stream, self.consumer.name, self.ready)
        await self._pull.open()
        return self._acked

    def take(self, messages_max: int) -> list[In]:
        """Whatever has come, possibly nothing. Raises Interrupted."""
        pull = self._pull
        if pull is None or pull.broken:
            raise Interrupted(pull.broken if pull else "not started")
        taken = _pop(pull.buffer, messages_max)
        if taken:
            self._unacked.append((taken[-1].sequence, taken[0].at_ns))
            pull.taken()
        return taken

    def acknowledge(self, message: In) -> None:
        """Acknowledge this message, taken since the last `start`, and all before it. A lost acknowledgement only means
        a repetition."""
        pull = self._pull
        if message.sequence > self._acked and pull is not None and not pull.broken:
            self._acked = pull.acked = message.sequence
            self._acked_at_ns = message.at_ns
            while self._unacked and self._unacked[0][0] <= message.sequence:
                self._unacked.popleft()
            with contextlib.suppress(Unavailable):
                self._bus.write(message_frame(message.reply, "", b"", b"+ACK"))

    @property
    def oldest_at_ns(self) -> int | None:
        """When the oldest message that came and is not acknowledged was stored, or None. It may be somewhat younger
        than this: the last acknowledged one is the bound within a `take`. Kept while interrupted, until `start`."""
        if self._unacked:
            return max(self._unacked[0][1], self._acked_at_ns)
        return self._pull.buffer[0].at_ns if self._pull is not None and self._pull.buffer else None

    @property
    def buffered(self) -> int:
        return len(self._pull.buffer) if self._pull is not None else 0

    def interrupt(self, why: str) -> None:
        if self._pull is not None:
            self._pull.fail(why)

    def check(self, now_s: float) -> None:
        if self._pull is not None:
            self._pull.check(now_s)

    async def close(self) -> None:
        self._bus.detach(self)
        if self._pull is not None:
            await self._pull.close()


class Follower:
    """Reads a stream onward from a place, for as long as the process lives, each message once and in order.

    Exactly one of: after_sequence (0: from the beginning), since_ns (stored at or after), last_per_subject (the newest
    of each subject, then onward), only_new.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        subject: str | Sequence[str] = ">",
        *,
        after_sequence: int | None = None,
        since_ns: int | None = None,
        last_per_subject: bool = False,
        only_new: bool = False,
        ready: asyncio.Event | None = None,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._start = start_policy(after_sequence, since_ns, last_per_subject, only_new)
        self.ready = ready or asyncio.Event()
        self._pull: _Pull | None = None
        self._consumer = ""
        self._behind: int | None = None  # messages that were waiting when the consumer was made
        self.sequence = 0  # of the last message handed out
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"follow-{stream}")
        self._task.add_done_callback(lambda _: self.ready.set())
        bus.attach(self)

    @property
    def caught_up(self) -> bool:
        """Whether all that the stream held when we looked has been handed out."""
        pull = self._pull
        if pull is None or pull.broken or self._behind is None or pull.buffer:
            return False
        return self._behind == 0 or pull.pending == 0

    def take(self, messages_max: int = BUFFERED_MESSAGES_MAX) -> list[In]:
        """Whatever has come, possibly nothing."""
        if self._task.done():
            self._task.result()  # a refusal that a retry does not cure ends the process with its reason
        pull = self._pull
        if pull is None:
            return []
        taken = _pop(pull.buffer, messages_max)
        if taken:
            self.sequence = taken[-1].sequence
            pull.taken()
        return taken

    async def wait(self) -> list[In]:
        """At least one message, or an empty list once it is caught up."""
        while True:
            self.ready.clear()
            taken = self.take()
            if taken or self.caught_up:
                return taken
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self.ready.wait()

    async def more(self) -> list[In]:
        """At least one message, however long it takes to come."""
        while True:
            self.ready.clear()
            taken = self.take()
            if taken:
                return taken
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self.ready.wait()

    def interrupt(self, why: str) -> None:
        if self._pull is not None:
            self._pull.fail(why)
        self._wake.set()

    def check(self, now_s: float) -> None:
        if self._pull is not None:
            self._pull.check(now_s)
            if self._pull.broken:
                self._wake.set()

    async def close(self) -> None:
        self._bus.detach(self)
        self._task.cancel()
        if self._pull is not None:
            await self._pull.close()
        if self._consumer:
            with contextlib.suppress(Unavailable, BusError):
                await self._bus.api(f"CONSUMER.DELETE.{self._stream}.{self._consumer}")

    async def _run(self) -> None:
        while True:
            await self._bus.wait_connected()
            try:
                await self._open()
            except (Unavailable, BusError) as error:
                if isinstance(error, BusError) and error.code not in NOT_FOUND:
                    raise  # a stream that is not there yet is about to be declared
                await asyncio.sleep(RETRY_S)
                continue
            while self._pull is not None and not self._pull.broken:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(RETRY_S)

    async def _open(self) -> None:
        """Make a consumer behind the last message handed out (what was buffered and not taken comes again)."""
        if self._pull is not None:
            await self._pull.close()
        start = self._start if self.sequence == 0 else start_policy(self.sequence, None, False, False)
        self._consumer = f"f-{token_hex(8)}"
        config = {
            "name": self._consumer,
            **_filter(self._subject),
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": FOLLOWER_INACTIVE_S * 1_000_000_000,
            **start,
        }
        info = await self._bus.api(
            f"CONSUMER.CREATE.{self._stream}.{self._consumer}", {"stream_name": self._stream, "config": config}
        )
        if start == {"deliver_policy": "new"}:  # next time it would begin later: keep the place
            self._start = start_policy(int(info["delivered"]["stream_seq"]), None, False, False)
        pull = _Pull(self._bus, self._stream, self._consumer, self.ready)
        self._behind = int(info["num_pending"])
        self._pull = pull
        try:
            await pull.open()
        finally:
            self.ready.set()


async def read(bus: Bus, stream: str, subject: str | Sequence[str] = ">", **start: Any) -> list[In]:
    """All that a stream holds now, from a place as in Follower. For a window, not for a whole history."""
    follower = Follower(bus, stream, subject, **start)
    try:
        found: list[In] = []
        while not follower.caught_up:
            found.extend(await follower.wait())
        return found
    finally:
        await follower.close()


async def message_after(bus: Bus, stream: str, sequence: int, subject: str = ">") -> In | None:
    """The first message behind a sequence that matches, or None."""
    return await _get(bus, stream, {"seq": sequence + 1, "next_by_subj": subject})


async def last_message(bus: Bus, stream: str, subject: str) -> In | None:
    """The newest message that matches, or None."""
    return await _get(bus, stream, {"last_by_subj": subject})


async def _get(bus: Bus, stream: str, what: dict[str, Any]) -> In | None:
    try:
        answer = await bus.api(f"STREAM.MSG.GET.{stream}", what)
    except BusError as error:
        if error.code in NOT_FOUND:
            return None
        raise
    return _stored(answer["message"])


def _stored(message: dict[str, Any]) -> In:
    data, headers = base64.b64decode(message.get("data", "")), base64.b64decode(message.get("hdrs", ""))
    return In(message["subject"], data, int(message["seq"]), parse_time_ns(message["time"]), headers, "")


def _filter(subject: str | Sequence[str]) -> dict[str, Any]:
    return {"filter_subject": subject} if isinstance(subject, str) else {"filter_subjects": list(subject)}


def _pop(buffer: deque[In], messages_max: int) -> list[In]:
    if len(buffer) <= messages_max:
        taken = list(buffer)
        buffer.clear()
        return taken
    return [buffer.popleft() for _ in range(messages_max)]
