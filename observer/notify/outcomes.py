"""What a try to send came to, and what that makes of the delivery; pure."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from observer.times import SECOND_NS
from schemas.alerts import Delivery, Level, Outcome

URGENT = frozenset({Level.CRITICAL, Level.ERROR})
BACKOFF_NS, BACKOFF_NS_MAX = SECOND_NS, 60 * SECOND_NS
BAD_TOKEN_NS = 60 * SECOND_NS  # between two tries while the channel's key is refused
SHRUNK_MAX = 4


class Sent(NamedTuple):
    message_id: int
    last: bool  # of the delivery's parts


class Slow(NamedTuple):
    """Asked to wait. It is no failed try."""

    retry_after_s: float
    reason: str


class Unparsable(NamedTuple):
    reason: str


class TooLong(NamedTuple):
    reason: str


class Moved(NamedTuple):
    chat: str
    reason: str


class Gone(NamedTuple):
    """The channel is no more, whatever is sent."""

    reason: str


class BadToken(NamedTuple):
    """We are not who we say we are: nothing of this kind of channel works until somebody mends the setting."""

    reason: str


class Refused(NamedTuple):
    """This message will never be taken."""

    reason: str


class Failed(NamedTuple):
    """Certainly not delivered; a later try may be."""

    reason: str


class Unknown(NamedTuple):
    """Sent, and no answer."""

    reason: str


Result = Sent | Slow | Unparsable | TooLong | Moved | Gone | BadToken | Refused | Failed | Unknown


def final(delivery: Delivery, outcome: Outcome, reason: str, now_ns: int) -> Delivery:
    return replace(delivery, outcome=outcome, reason=reason, settled_at_ns=now_ns)


def after_try(before: Delivery, result: Result, now_ns: int, jitter: float) -> Delivery:
    """The delivery after a try: the whole table."""
    queued = replace(before, outcome=Outcome.QUEUED, next_at_ns=now_ns)
    match result:
        case Sent(message_id, last):
            ids = (*before.message_ids, message_id) if message_id else before.message_ids
            sent = replace(queued, parts_sent=before.parts_sent + 1, message_ids=ids, repeat=False, reason="")
            return final(sent, Outcome.SENT, "possible repeat" if before.repeat else "", now_ns) if last else sent
        case Slow(retry_after_s, reason):
            return replace(queued, reason=reason, next_at_ns=now_ns + int(retry_after_s * SECOND_NS))
        case Unparsable(reason) if not before.plain:
            return replace(queued, plain=True, reason=reason)
        case TooLong(reason) if before.shrunk < SHRUNK_MAX and before.parts_sent == 0:
            return replace(queued, shrunk=before.shrunk + 1, reason=reason)
        case Moved(_, reason):
            return replace(queued, reason=reason, next_at_ns=now_ns + SECOND_NS)
        case BadToken(reason):
            return replace(queued, attempts=before.attempts + 1, reason=reason, next_at_ns=now_ns + BAD_TOKEN_NS)
        case Unknown(reason) if before.level not in URGENT:
            return final(replace(before, attempts=before.attempts + 1), Outcome.UNKNOWN, reason, now_ns)
        case Failed(reason) | Unknown(reason):
            attempts = before.attempts + 1
            due_ns = now_ns + backoff_ns(attempts, jitter)
            repeat = before.repeat or isinstance(result, Unknown)
            return replace(queued, attempts=attempts, repeat=repeat, reason=reason, next_at_ns=due_ns)
    return final(before, Outcome.FAILED, result.reason, now_ns)


def backoff_ns(attempts: int, jitter: float) -> int:
    """Doubling from one second to a minute, less up to a half at random."""
    whole = min(BACKOFF_NS_MAX, BACKOFF_NS << min(attempts - 1, 10))
    return whole - int(whole * jitter / 2)
