"""Key-value buckets: get, put with an expected revision, delete, and a live view. Truth is get and put; a view is a
follower of the bucket's stream, so it survives reconnects without a hole."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from runtime.bus import NOT_FOUND, Bus, BusError
from runtime.readers import Follower
from runtime.wire import In, Out, chunks

_DELETE = b"KV-Operation: DEL\r\n"


class Entry(NamedTuple):
    """A key's newest value. revision: the bucket's sequence of it."""

    data: bytes
    revision: int


class Change(NamedTuple):
    """A change in a bucket. data: None where the key was deleted, or its time was over."""

    key: str
    data: bytes | None
    revision: int
    at_ns: int


def subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


async def get(bus: Bus, bucket: str, key: str) -> Entry | None:
    """The newest value, or None where there is none or it was deleted. Raises Unavailable."""
    try:
        answer = await bus.api(f"STREAM.MSG.GET.KV_{bucket}", {"last_by_subj": subject(bucket, key)})
    except BusError as error:
        if error.code in NOT_FOUND:
            return None
        raise
    message = answer["message"]
    if b"KV-Operation" in base64.b64decode(message.get("hdrs", "")):
        return None
    return Entry(base64.b64decode(message.get("data", "")), int(message["seq"]))


async def put(
    bus: Bus, bucket: str, key: str, data: bytes, expected_revision: int | None = None, ttl_s: int | None = None
) -> int:
    """Store a value and return its revision. expected_revision: of the newest entry, 0 for a key never written.
    ttl_s: after which the key is gone, where the bucket allows it.

    Raises WrongSequence when somebody else wrote first.
    """
    ttl = b"" if ttl_s is None else b"Nats-TTL: %ds\r\n" % ttl_s
    return await bus.publish(subject(bucket, key), data, headers=ttl + _expecting(expected_revision))


async def delete(bus: Bus, bucket: str, key: str, expected_revision: int | None = None) -> int:
    """Mark a key as deleted. Raises WrongSequence as `put` does."""
    return await bus.publish(subject(bucket, key), b"", headers=_DELETE + _expecting(expected_revision))


async def put_many(bus: Bus, bucket: str, values: Iterable[tuple[str, bytes | None]]) -> None:
    """Store many values, up to 1,000 at once; None deletes."""
    messages = [Out(subject(bucket, key), data or b"", _DELETE if data is None else b"") for key, data in values]
    for chunk in chunks(messages):
        await bus.append(chunk)


def follow(bus: Bus, bucket: str, keys: str = ">") -> Follower:
    """Every key's newest value, then each change. Read its messages with `change`."""
    return Follower(bus, f"KV_{bucket}", subject(bucket, keys), last_per_subject=True)


def change(message: In) -> Change:
    key = message.subject.split(".", 2)[2]
    headers = message.headers or {}
    deleted = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    return Change(key, None if deleted else message.data, message.sequence, message.at_ns)


def _expecting(revision: int | None) -> bytes:
    return b"" if revision is None else f"Nats-Expected-Last-Subject-Sequence: {revision}\r\n".encode()
