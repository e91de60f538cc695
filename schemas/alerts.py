"""What the notification outbox holds: alerts, what became of each in each channel, what is known of a channel.

alert id       <fingerprint>:<started_at_ns>:<state>:<level>:<reminder>   the same finding told twice has one id
delivery id    <sequence in ALERTS>.<channel>                             also its key in the bucket `deliveries`
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import blake2b

from schemas.events import Struct

SUMMARY_CHARS_MAX = 300
TEXT_CHARS_MAX = 20_000  # a daily report; messages longer than a channel takes are split there
MUTE_NAME = "Mute"  # of the alert that tells of a mute, which no mute keeps back
COVERED_MAX = 1000  # deliveries that one digest stands for


class Level(StrEnum):
    """How much it matters, the most urgent first. The value is the token in `alerts.<level>`."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


_PLAIN = re.compile(r"[!-~]{1,100}\Z")

RANK = {level: rank for rank, level in enumerate(Level)}


class Happening(StrEnum):
    """FIRING and RESOLVED begin and end what lasts; a NOTICE is told once; a DIGEST stands for what was held back.

    FLAPPING: it begins and ends again and again, and what is not urgent of it is held back from here on, until it is
    told how it stands (FIRING or RESOLVED, with `flaps`).
    ACKNOWLEDGED: somebody works on it. ESCALATED: nobody does, and it is told to one more channel, its `channel`.
    """

    FIRING = "firing"
    RESOLVED = "resolved"
    NOTICE = "notice"
    DIGEST = "digest"
    FLAPPING = "flapping"
    ACKNOWLEDGED = "acknowledged"
    ESCALATED = "escalated"
    CANARY = "canary"  # shows that the way is open; of no interest to people


class Alert(Struct, frozen=True, kw_only=True, tag_field="type", tag="alert"):
    """One thing to tell people.

    fingerprint: of what lasts; the same while it fires, and when it is resolved.
    name: of the kind; several fingerprints may share it. Throttling counts by name.
    source: who found it; only it may resolve it. reminder: 0 for the first word, then 1, 2, ….
    url: where to read on. dashboard: where it is drawn.
    channel: the only one that is meant; empty for every channel that takes the level.
    covers: of a DIGEST, the ids of the deliveries that it stands for.
    flaps: how often an alert has changed that flaps, in the words that say so (FLAPPING, and ESCALATED where it does)
    and in the one that says how it stands when it is calm; they stand for what was held back of it. Else 0.
    """

    id: str
    fingerprint: str
    name: str
    level: Level
    state: Happening
    source: str
    summary: str
    text: str = ""
    url: str = ""
    dashboard: str = ""
    reminder: int = 0
    channel: str = ""
    covers: tuple[str, ...] = ()
    flaps: int = 0
    started_at_ns: int
    at_ns: int


class Outcome(StrEnum):
    """QUEUED and SENDING go on; each of the others is final, and each delivery comes to exactly one of them."""

    QUEUED = "queued"
    SENDING = "sending"  # a try was begun and its end is not recorded
    SENT = "sent"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    UNKNOWN = "unknown"  # the channel may have delivered it, and it does not matter enough to risk a repetition


FINAL = frozenset({Outcome.SENT, Outcome.FAILED, Outcome.SUPPRESSED, Outcome.UNKNOWN})


class Delivery(Struct, frozen=True, kw_only=True, tag_field="type", tag="delivery"):
    """One alert on one channel.

    attempts: failed tries, without those that the channel asked us to put off. parts_sent: parts of a long message
    that are acknowledged. repeat: an earlier try may have arrived. plain: without markup, which was refused.
    shrunk: how often the size of parts was halved. message_ids: the channel's names of the parts.
    queued_at_ns: when the alert was stored. settled_at_ns: 0 until it is final. by: the life of an
    observer that wrote it, so that one knows its own words.
    """

    id: str
    sequence: int
    channel: str
    alert_id: str
    fingerprint: str
    name: str
    level: Level
    state: Happening
    summary: str
    outcome: Outcome = Outcome.QUEUED
    reason: str = ""
    attempts: int = 0
    parts_sent: int = 0
    repeat: bool = False
    plain: bool = False
    shrunk: int = 0
    message_ids: tuple[int, ...] = ()
    queued_at_ns: int
    next_at_ns: int = 0
    settled_at_ns: int = 0
    by: str = ""


class ChannelState(Struct, frozen=True, kw_only=True, tag_field="type", tag="channel"):
    """What must be remembered of a channel. Key in the bucket `channels`: `channel.<channel>`.

    since_sequence: of ALERTS, when the channel was first seen; it is not told what was before.
    chat: where its chat has moved to. disabled: why nothing can be sent there any more.
    """

    channel: str
    since_sequence: int
    chat: str = ""
    disabled: str = ""
    changed_at_ns: int


class Mute(Struct, frozen=True, kw_only=True, tag_field="type", tag="mute"):
    """Alerts of a name ("*": all) are not sent until a time. Key in the bucket `channels`: `mute.<id>`."""

    id: str
    name: str
    reason: str
    since_at_ns: int
    until_at_ns: int


def alert_subject(level: Level) -> str:
    return f"alerts.{level}"


def alert_id(fingerprint: str, started_at_ns: int, state: Happening, level: Level, reminder: int = 0) -> str:
    """It travels in a header, so a fingerprint that could not is replaced by its digest."""
    if not _PLAIN.match(fingerprint):
        fingerprint = blake2b(fingerprint.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return f"{fingerprint}:{started_at_ns}:{state}:{level}:{reminder}"


def delivery_id(sequence: int, channel: str) -> str:
    return f"{sequence}.{channel}"
