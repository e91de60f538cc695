"""The answer on `observer.alerts`: what is open, what waits, how the newest notifications ended; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec.structs import replace

from observer.notify.outbox import Outbox
from schemas.alerts import Alert, Delivery, Mute

LISTED_MAX, HISTORY_LISTED_MAX, TEXT_CHARS_LISTED_MAX = 30, 100, 200  # an answer must fit into a message


class Question(msgspec.Struct, frozen=True):
    """A request. limit: of ended notifications."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=HISTORY_LISTED_MAX)] = 20


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The first ones of each list; history: the newest first. held: notifications that wait for a digest.

    channels: why each is disabled, "" while it is not.
    """

    open: list[Alert]
    waiting: list[Delivery]
    held: int
    history: list[Delivery]
    channels: Mapping[str, str]
    mutes: list[Mute]


def listing(alerts: Iterable[Alert], outbox: Outbox, history: Sequence[Delivery], limit: int, now_ns: int) -> Answer:
    """history: the oldest first."""
    return Answer(
        open=[replace(alert, text=alert.text[:TEXT_CHARS_LISTED_MAX]) for alert in list(alerts)[:LISTED_MAX]],
        waiting=outbox.waiting()[:LISTED_MAX],
        held=len(outbox.held()),
        history=list(reversed(history))[:limit],
        channels=outbox.disabled(),
        mutes=[mute for mute in outbox.mutes.values() if mute.until_at_ns > now_ns][:LISTED_MAX],
    )
