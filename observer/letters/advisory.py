"""The broker's advisories -> their kind, and the dead letter that one leads to; pure.

    max_deliveries    a message was delivered as often as its consumer allows, and never acknowledged
    terminated        a consumer refused a message for good (`+TERM`)
    deleted_unacked   a message that somebody worked on was deleted: retention, or a purge, was faster. The broker tells
                      it as a termination with a reason of its own; the bytes are gone, and that is data loss
    naked             a consumer put a message off (`-NAK`). It comes again, so nothing is dead: counted, not kept
    quorum_lost       a stream or consumer with replicas refuses writes: counted; it concerns no message

Nothing is kept of what DEAD's own consumers give up: a letter about a letter would lead to the next one, without end.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from runtime.letters import dead_letter
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent
from schemas.events import DeadLetter
from schemas.subjects import dead_subject


class Kind(StrEnum):
    MAX_DELIVERIES = "max_deliveries"
    TERMINATED = "terminated"
    DELETED_UNACKED = "deleted_unacked"
    NAKED = "naked"
    QUORUM_LOST = "quorum_lost"


DELETED_REASON = "Unacknowledged message was deleted"
_OURS = ("DEAD", "ADVISORIES")
_TYPES = {
    "io.nats.jetstream.advisory.v1.max_deliver": Kind.MAX_DELIVERIES,
    "io.nats.jetstream.advisory.v1.terminated": Kind.TERMINATED,
    "io.nats.jetstream.advisory.v1.nak": Kind.NAKED,
    "io.nats.jetstream.advisory.v1.stream_quorum_lost": Kind.QUORUM_LOST,
    "io.nats.jetstream.advisory.v1.consumer_quorum_lost": Kind.QUORUM_LOST,
}
_KEPT = {
    Kind.MAX_DELIVERIES: "delivered as often as the consumer allows, never acknowledged",
    Kind.TERMINATED: "terminated by the consumer",
    Kind.DELETED_UNACKED: DELETED_REASON,
}
_NAME = re.compile(r"[^\s.*>\x00-\x1f\x7f]{1,255}\Z")


class Advisory(msgspec.Struct, frozen=True):
    """What we read of one; the broker writes more.

    stream_seq: of the message in its stream. deliveries: how often it was delivered.
    """

    type: str
    stream: str = ""
    consumer: str = ""
    stream_seq: int = 0
    deliveries: int = 0
    reason: str = ""


_advisory: Decoder[Advisory] = Decoder(Advisory)


def read(data: bytes) -> tuple[Kind, Advisory]:
    """Raises MalformedEvent for what is no advisory that we know."""
    advisory = _advisory(data)
    kind = _TYPES.get(advisory.type)
    if kind is None:
        raise MalformedEvent(f"an advisory of unknown type {advisory.type[:80]!r}")
    if kind is Kind.TERMINATED and advisory.reason == DELETED_REASON:
        kind = Kind.DELETED_UNACKED
    if kind in _KEPT and not (_NAME.match(advisory.stream) and _NAME.match(advisory.consumer) and advisory.stream_seq):
        raise MalformedEvent("an advisory about no message of a stream and its consumer")
    return kind, advisory


def is_kept(kind: Kind, advisory: Advisory) -> bool:
    """Whether it leads to a letter in DEAD."""
    return kind in _KEPT and advisory.stream not in _OURS


def letter_id(kind: Kind, advisory: Advisory) -> str:
    return f"{advisory.stream}:{advisory.consumer}:{advisory.stream_seq}:{kind}"


def subject_of(advisory: Advisory) -> str:
    return dead_subject(advisory.stream, advisory.consumer)


def letter(kind: Kind, advisory: Advisory, message: In | None, at_ns: int) -> DeadLetter:
    """message: as it lies in its stream, None where it does no longer. at_ns: when the broker told it."""
    said = advisory.reason if kind is Kind.TERMINATED else ""
    reason = f"{_KEPT[kind]}: {said}" if said else _KEPT[kind]
    if message is None:
        reason = f"{reason}; the message was gone before it could be copied"
    return dead_letter(
        letter_id(kind, advisory), advisory.stream, "" if message is None else message.subject, advisory.stream_seq,
        None if message is None else message.data, reason, at_ns,
        headers=None if message is None else message.headers, deliveries=advisory.deliveries, kind=kind,
    )  # fmt: skip
