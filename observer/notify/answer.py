"""The answer on `observer.alerts`: what is open, what waits, how the newest notifications ended; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec.structs import replace

from observer.notify.escalation import Standing
from observer.notify.outbox import Outbox
from schemas.alerts import Alert, Delivery, Mute

LISTED_MAX, HISTORY_LISTED_MAX, TEXT_CHARS_LISTED_MAX = 30, 100, 200  # an answer must fit into a message


class Question(msgspec.Struct, frozen=True):
    """A request. limit: of ended notifications. name: of the open alerts that are wanted; all for ""."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=HISTORY_LISTED_MAX)] = 20
    name: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The first ones of each list; history: the newest first. standings: of the open ones, by fingerprint.

    held: notifications that wait for a digest, or for an alert to be calm.

    channels: why each is disabled, "" while it is not.
    """

    open: list[Alert]
    standings: dict[str, Standing] = {}
    waiting: list[Delivery]
    held: int
    history: list[Delivery]
    channels: Mapping[str, str]
    mutes: list[Mute]


def listing(
    asked: Question,
    alerts: Iterable[Alert],
    standing: Callable[[str], Standing],
    outbox: Outbox,
    history: Sequence[Delivery],
    now_ns: int,
) -> Answer:
    """history: the oldest first."""
    wanted = [alert for alert in alerts if asked.name in ("", alert.name)][:LISTED_MAX]
    return Answer(
        open=[replace(alert, text=alert.text[:TEXT_CHARS_LISTED_MAX]) for alert in wanted],
        standings={alert.fingerprint: standing(alert.fingerprint) for alert in wanted},
        waiting=outbox.waiting()[:LISTED_MAX],
        held=len(outbox.held()),
        history=list(reversed(history))[: asked.limit],
        channels=outbox.disabled(),
        mutes=[mute for mute in outbox.mutes.values() if mute.until_at_ns > now_ns][:LISTED_MAX],
    )
