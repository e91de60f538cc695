"""JetStream's wire facts as pure functions: frames of an atomic batch, acknowledgement subjects, error codes.

Source: ADR-50 (atomic batches), ADR-15 (ack subjects); checked against nats-server 2.15.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

BATCH_MESSAGES_MAX = 1000  # the server's limit for one atomic batch


class Out(NamedTuple):
    """A message to be published.

    headers: prepared lines `Name: value\\r\\n`, ASCII.
    expect: sequence that the last message on this subject's stored form must have; None asks for nothing.
    id: of the message inside, for whoever compares with what is stored; it does not travel.
    """

    subject: str
    data: bytes
    headers: bytes = b""
    expect: int | None = None
    id: str = ""


class In(NamedTuple):
    """A message from a stream.

    subject: as stored. at_ns: when it was stored. header_block: as it came, b"" for none; hardly anybody looks at it,
    so it is not parsed until somebody does. reply: where to acknowledge.
    """

    subject: str
    data: bytes
    sequence: int
    at_ns: int
    header_block: bytes
    reply: str

    @property
    def headers(self) -> dict[str, str]:
        return parse_headers(self.header_block)


class Reply(NamedTuple):
    """What came to an inbox of ours. header_block: as in In."""

    header_block: bytes
    data: bytes


class Delivery(NamedTuple):
    """What an acknowledgement subject says.

    delivered: how often it was; number: the consumer's own count of deliveries; pending: how many wait behind it.
    """

    delivered: int
    sequence: int
    number: int
    at_ns: int
    pending: int


class Answer(msgspec.Struct):
    """The part of a publish acknowledgement that we read. count: messages stored, where they were several."""

    class Error(msgspec.Struct):
        code: int = 0
        err_code: int = 0
        description: str = ""

    seq: int = 0
    count: int = 1
    duplicate: bool = False
    error: Error | None = None


_answer = msgspec.json.Decoder(Answer)


def decode_answer(data: bytes) -> Answer:
    """Raises msgspec.DecodeError."""
    return _answer.decode(data)


def message_frame(subject: str, reply: str, headers: bytes, data: bytes) -> bytes:
    """One HPUB frame (or PUB without headers)."""
    if not headers:
        return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(data), data)
    block = b"NATS/1.0\r\n%s\r\n" % headers
    size = len(block)
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), reply.encode(), size, size + len(data), block, data)


def batch_frames(messages: Sequence[Out], batch_id: str, reply: str, expect_last: int | None) -> bytes:
    """An atomic batch as one buffer: it is stored whole or not at all, and the commit's answer goes to `reply`.

    One message alone is whole by itself: as an ordinary publication it spares the server a batch's staging and syncs.
    expect_last: sequence that the stream's last message must have.
    """
    count = len(messages)
    if not 1 <= count <= BATCH_MESSAGES_MAX:
        raise ValueError(f"a batch holds 1 to {BATCH_MESSAGES_MAX} messages, not {count}")
    prefix = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: ".encode()
    frames = []
    for index, message in enumerate(messages, 1):
        headers = b"%s%d\r\n%s" % (prefix, index, message.headers) if count > 1 else message.headers
        if message.expect is not None:
            headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % message.expect
        if index == 1 and expect_last is not None:
            headers += b"Nats-Expected-Last-Sequence: %d\r\n" % expect_last
        if index == count > 1:
            headers += b"Nats-Batch-Commit: 1\r\n"
        frames.append(message_frame(message.subject, reply if index == count else "", headers, message.data))
    return b"".join(frames)


def expecting(sequence: int, stored_subject: str) -> bytes:
    """Header lines: the last message on another subject must have this sequence. In a batch each message may name one
    subject, its own or another (checked against nats-server 2.15.1)."""
    return b"Nats-Expected-Last-Subject-Sequence: %d\r\nNats-Expected-Last-Subject-Sequence-Subject: %b\r\n" % (
        sequence,
        stored_subject.encode(),
    )


def parse_delivery(reply: bytes) -> Delivery | None:
    """Read `$JS.ACK.…`, in its short form or with domain and account. None: no acknowledgement subject."""
    if not reply.startswith(b"$JS.ACK."):
        return None
    parts = reply.split(b".")
    if len(parts) == 9:
        return Delivery._make(map(int, parts[4:]))
    if len(parts) >= 11:
        return Delivery._make(map(int, parts[6:11]))
    return None


def start_policy(
    after_sequence: int | None, since_ns: int | None, last_per_subject: bool, only_new: bool
) -> dict[str, Any]:
    """Where a consumer begins, as in runtime/readers.py's Follower, in the fields of its configuration."""
    if since_ns is not None:
        seconds, rest = divmod(max(since_ns, 0), 1_000_000_000)
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"
        return {"deliver_policy": "by_start_time", "opt_start_time": text}
    if last_per_subject:
        return {"deliver_policy": "last_per_subject"}
    if only_new:
        return {"deliver_policy": "new"}
    if after_sequence:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": after_sequence + 1}
    return {"deliver_policy": "all"}


def status_of(header_block: bytes) -> str:
    """The status in the first line, e.g. "503" where nobody listens; "" for a message that is none."""
    return header_block[9:12].decode("ascii", "replace") if header_block.startswith(b"NATS/1.0 ") else ""


def parse_headers(block: bytes) -> dict[str, str]:
    """Header lines by name, the last one of a name; the first line's status and text as Status and Description."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers = {}
    status, _, description = first.partition(" ")[2].partition(" ")
    if status:
        headers["Status"] = status
    if description:
        headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


def chunks(messages: Sequence[Out], size: int = BATCH_MESSAGES_MAX) -> Iterable[Sequence[Out]]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


def trace_headers(event_id: str, span_id: str = "", sampled: bool = False) -> bytes:
    """W3C trace context. A token event's id (32 hex digits), with which the ids of all that follows from it begin, is
    the trace's id.

    span_id: of the span that publishes; "" for the trace's root, which is the publication of the event itself.
    """
    flags = "01" if sampled else "00"
    return f"traceparent: 00-{event_id[:32]}-{span_id or event_id[16:32]}-{flags}\r\n".encode()


def trace_of(header_block: bytes) -> str:
    """The trace id in a message's W3C trace context; "" where there is none."""
    _, found, rest = header_block.partition(b"traceparent: 00-")
    return rest[:32].decode("ascii", "replace") if found else ""
