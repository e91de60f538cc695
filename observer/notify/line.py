"""One channel's state in the outbox: what waits, what is held back, how fast it may be used; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from observer.notify.alerts import CHANNEL_DISABLED
from observer.notify.digest import Held
from observer.notify.pacing import BOT, Pace, Rate
from schemas.alerts import RANK, Alert, Delivery, Happening, Level, Outcome


class Plan(NamedTuple):
    """A channel as the settings describe it. bot: channels with the same one share its pace and its key.

    after_ns: for how long an alert must have lasted, not acknowledged, to be told here; 0 tells everything.
    canaries: it takes those, and nothing else.
    """

    channel: str
    kind: str
    level_min: Level
    rates: Sequence[Rate]
    bot: str
    after_ns: int = 0
    canaries: bool = False


class Try(NamedTuple):
    """One thing to send. reply_to: the channel's name of the message that this one ends; 0 for none."""

    delivery: Delivery
    alert: Alert
    reply_to: int


class Bot:
    def __init__(self) -> None:
        self.pace = Pace(BOT)
        self.paused_until_ns = 0
        self.slowed: tuple[str, int] = ("", 0)  # the channel that was asked to wait last, and until when


class Item(NamedTuple):
    delivery: Delivery
    alert: Alert


class Line:
    """One channel's state."""

    def __init__(self, plan: Plan, bot: Bot, since_sequence: int, disabled: str) -> None:
        self.plan = plan
        self.bot = bot
        self.since_sequence = since_sequence
        self.disabled = disabled
        self.pace = Pace(plan.rates)
        self.paused_until_ns = 0
        self.failures = 0  # since the last success
        self.silent = False  # the last try had no answer: what is sent now may be lost, or told twice
        self.queue: dict[str, Item] = {}
        self.held: dict[str, Held] = {}
        self.windows: dict[str, int] = {}  # by name: when what comes is queued again
        self.flapping: dict[str, dict[str, Held]] = {}  # by fingerprint, while it flaps: what is held back of it
        self.through: dict[str, bool] = {}  # by fingerprint, while it fires: whether that was queued
        self.escalated: set[str] = set()  # fingerprints, of a channel that is kept for what lasts
        self.replies: dict[str, int] = {}
        self.digesting = False

    def takes(self, alert: Alert) -> bool:
        if self.plan.canaries or alert.state is Happening.CANARY:
            return self.plan.canaries and alert.state is Happening.CANARY
        meant = alert.channel in ("", self.plan.channel)
        if self.plan.after_ns and not alert.channel:  # else, what is meant for it alone
            return alert.fingerprint in self.escalated or alert.name.startswith(CHANNEL_DISABLED)
        if alert.state is Happening.DIGEST or (alert.flaps and alert.fingerprint in self.flapping):
            return meant
        return meant and RANK[alert.level] <= RANK[self.plan.level_min]

    def blocked_until_ns(self) -> int:
        return max(self.paused_until_ns, self.bot.paused_until_ns, self.pace.free_at_ns(), self.bot.pace.free_at_ns())


def first_of_each(items: Iterable[Item]) -> Iterator[Item]:
    """Of each fingerprint the oldest, so that nothing is resolved before it fired; none whose try is under way."""
    seen = set()
    for item in items:
        if item.delivery.fingerprint not in seen:
            seen.add(item.delivery.fingerprint)
            if item.delivery.outcome is Outcome.QUEUED:
                yield item


def urgency(item: Item) -> tuple[bool, int, int]:
    """What was begun comes first, so that the parts of a message stay together; then the level; then the age."""
    delivery = item.delivery
    return delivery.parts_sent == 0, RANK[delivery.level], delivery.sequence
