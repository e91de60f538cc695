"""What must be sent, attempts so far, when next; pure: the time and the randomness are arguments.

A delivery is one alert on one channel. It is queued, tried, and ends in exactly one of: sent, failed, suppressed,
unknown. Whether an alert is queued or held back follows from the stream alone, in the time of the stream, so a start
decides again as before:

    critical, error   never held back
    warning, info     the first of a name is queued, and opens a window; what fires or is told within it is held back,
                      and so is its end; the end of what was queued is queued
    digest            when a window ends, one message stands for all that its channel holds back
    escalated         a channel that is kept for what lasts takes an alert from this word on, until it is over
    flapping          from the word that says so until it is calm, warnings and infos of the alert are held back; each
                      word about the flapping stands for what was held back of it before

Every try is recorded before it begins (`begin` returns what to store) and after it ended (`settle`). A record that
says "sending" after a start is a try whose end nobody knows, like one that timed out: critical and error are sent
again, marked as a possible repeat; the others end as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from observer.notify.digest import Held, compose_digest
from observer.notify.line import Bot, Item, Line, Plan, Try, first_of_each, urgency
from observer.notify.outcomes import (
    BAD_TOKEN_NS,
    URGENT,
    BadToken,
    Failed,
    Gone,
    Result,
    Sent,
    Slow,
    Unknown,
    after_try,
    backoff_ns,
    final,
)
from observer.times import SECOND_NS
from schemas.alerts import FINAL, MUTE_NAME, Alert, Delivery, Happening, Level, Mute, Outcome, delivery_id

HOUR_NS = 3600 * SECOND_NS
DEADLINE_NS = {
    Level.CRITICAL: 24 * HOUR_NS,
    Level.ERROR: 24 * HOUR_NS,
    Level.WARNING: 12 * HOUR_NS,
    Level.INFO: 6 * HOUR_NS,
}
_MUTED = "muted: "
CHANNEL_BACKOFF_NS_MAX = 15 * SECOND_NS


class Outbox:
    """All channels. `restore` what is recorded, then `accept` ALERTS from its beginning, then `begin` and `settle`."""

    def __init__(self, throttle_ns: int) -> None:
        self._throttle_ns = throttle_ns
        self._lines: dict[str, Line] = {}
        self._bots: dict[str, Bot] = {}
        self._records: dict[str, Delivery] = {}  # restored, until the alert comes
        self.mutes: dict[str, Mute] = {}

    def add(self, plan: Plan, since_sequence: int, disabled: str = "") -> None:
        bot = self._bots.setdefault(plan.bot, Bot())
        self._lines[plan.channel] = Line(plan, bot, since_sequence, disabled)

    def restore(self, record: Delivery) -> None:
        self._records[record.id] = record
        line = self._lines.get(record.channel)
        if line is not None and record.outcome is Outcome.SENT:
            line.pace.sent(record.settled_at_ns)
            line.bot.pace.sent(record.settled_at_ns)

    def restored(self, now_ns: int) -> list[Delivery]:
        """All that was stored has been accepted: what is left is of channels, or of alerts, that are no more. Returns
        the final records that are to be stored."""
        left = [record for record in self._records.values() if record.outcome not in FINAL]
        self._records.clear()
        return [final(record, Outcome.FAILED, "neither channel nor alert is there any more", now_ns) for record in left]

    def enable(self, channel: str) -> None:
        self._lines[channel].disabled = ""

    def leave(self, delivery: Delivery) -> None:
        """Somebody else works on it."""
        self._lines[delivery.channel].queue.pop(delivery.id, None)

    def accept(self, sequence: int, alert: Alert, at_ns: int) -> list[Delivery]:
        """An alert of the stream, in its order. Returns final records that are to be stored."""
        made: list[Delivery] = []
        takers = [line for line in self._lines.values() if line.takes(alert)]
        for line in takers:
            if sequence > line.since_sequence:
                made += self._accept(line, sequence, alert, at_ns)
        if not takers and alert.state is not Happening.CANARY:
            nobody = _delivery(sequence, "nobody", alert, at_ns)
            if nobody.id not in self._records:
                made.append(final(nobody, Outcome.SUPPRESSED, "no channel takes this level", at_ns))
        return made

    def _accept(self, line: Line, sequence: int, alert: Alert, at_ns: int) -> Iterator[Delivery]:
        fresh = _delivery(sequence, line.plan.channel, alert, at_ns)
        if alert.state is Happening.DIGEST:
            yield from self._release(line, alert, sequence, at_ns)
        elif alert.state is Happening.ESCALATED:
            line.escalated.add(alert.fingerprint)
        if alert.flaps:
            yield from self._stand_for(line, alert, sequence, at_ns)
        if alert.state is Happening.RESOLVED and alert.fingerprint not in line.flapping:
            line.escalated.discard(alert.fingerprint)
        record = self._records.pop(fresh.id, None)
        ended = record is not None and record.outcome is Outcome.SUPPRESSED and record.reason.startswith(_MUTED)
        muted = _MUTED if ended else self.muted(alert, at_ns)  # the mute itself may be forgotten by now
        holding = self._holding(line, alert, bool(muted), at_ns)
        if record is not None and record.outcome not in FINAL:
            line.queue[record.id] = Item(record, alert)
        elif holding is not None and (record is None or record.outcome is Outcome.SUPPRESSED):
            holding[fresh.id] = Held(fresh, alert, line.windows.get(alert.name, at_ns), record is not None)
        elif record is not None:
            self._note_end(line, record)
        elif line.disabled:
            yield final(fresh, Outcome.FAILED, f"channel disabled: {line.disabled}", at_ns)
        elif muted:
            yield final(fresh, Outcome.SUPPRESSED, muted, at_ns)
        else:
            line.queue[fresh.id] = Item(fresh, alert)

    def _holding(self, line: Line, alert: Alert, muted: bool, at_ns: int) -> dict[str, Held] | None:
        """Among what it is to be held back; None if it is to be told."""
        state, fingerprint, urgent = alert.state, alert.fingerprint, alert.level in URGENT
        changed = state in (Happening.FIRING, Happening.RESOLVED) and not alert.flaps
        holding = None
        if changed and not urgent and not muted and fingerprint in line.flapping:
            holding = line.flapping[fingerprint]
        elif changed and state is Happening.RESOLVED:
            holding = None if line.through.get(fingerprint, True) else line.held
        elif state in (Happening.FIRING, Happening.NOTICE) and not urgent and not muted and not alert.flaps:
            holding = self._throttled(line, alert, at_ns)
        if state is Happening.RESOLVED:
            line.through.pop(fingerprint, None)
        elif state is Happening.FIRING:
            line.through[fingerprint] = holding is None or line.through.get(fingerprint, False)
        return holding

    def _throttled(self, line: Line, alert: Alert, at_ns: int) -> dict[str, Held] | None:
        if at_ns < line.windows.get(alert.name, 0):
            return line.held
        line.windows[alert.name] = at_ns + self._throttle_ns
        return None

    def _stand_for(self, line: Line, word: Alert, sequence: int, at_ns: int) -> Iterator[Delivery]:
        """What a word about the flapping of an alert stands for is suppressed."""
        mine = {key: held for key, held in line.held.items() if held.alert.fingerprint == word.fingerprint}
        for key in mine:
            del line.held[key]
        mine |= line.flapping.pop(word.fingerprint, {})
        if word.state in (Happening.FLAPPING, Happening.ESCALATED):
            line.flapping[word.fingerprint] = {}
        for held in mine.values():
            if not held.recorded:
                yield final(held.delivery, Outcome.SUPPRESSED, f"flapping: told in {sequence}", at_ns)

    def _release(self, line: Line, digest: Alert, sequence: int, at_ns: int) -> Iterator[Delivery]:
        """What a digest stands for is suppressed, and the windows of its names begin anew."""
        line.digesting = False
        for key in digest.covers:
            held = line.held.pop(key, None)
            if held is None:
                continue
            line.windows[held.alert.name] = at_ns + self._throttle_ns
            if not held.recorded:
                yield final(held.delivery, Outcome.SUPPRESSED, f"told in digest {sequence}", at_ns)

    def muted(self, alert: Alert, at_ns: int) -> str:
        """The reason to record, or "" while it is not muted."""
        if alert.state in (Happening.DIGEST, Happening.CANARY) or alert.name == MUTE_NAME:
            return ""
        found = (m for m in self.mutes.values() if m.name in ("*", alert.name) and m.since_at_ns <= at_ns)
        return next((f"{_MUTED}{mute.reason}" for mute in found if at_ns < mute.until_at_ns), "")

    def digest(self, channel: str, now_ns: int) -> Alert | None:
        """A digest to be published, if it is time for one. It comes back by `accept`."""
        line = self._lines[channel]
        due = any(held.until_ns <= now_ns for held in line.held.values())
        if not due or line.digesting:
            return None
        line.digesting = True
        return compose_digest(channel, list(line.held.values()), now_ns)

    def digest_failed(self, channel: str) -> None:
        """It could not be published: `digest` gives it again."""
        self._lines[channel].digesting = False

    def over(self, channel: str, now_ns: int) -> list[Delivery]:
        """Deliveries that can be sent no more; the final records are to be stored."""
        line = self._lines[channel]
        ended = []
        for item in list(line.queue.values()):
            delivery = item.delivery
            if delivery.outcome is Outcome.SENDING:
                continue
            if now_ns - delivery.queued_at_ns >= DEADLINE_NS[delivery.level]:
                outcome = Outcome.UNKNOWN if delivery.repeat else Outcome.FAILED
                ended.append(final(delivery, outcome, f"deadline; {delivery.reason}", now_ns))
            elif line.disabled:
                ended.append(final(delivery, Outcome.FAILED, f"channel disabled: {line.disabled}", now_ns))
        for delivery in ended:
            del line.queue[delivery.id]
        return ended

    def resume(self, channel: str, now_ns: int, jitter: float) -> list[Delivery]:
        """After a start: tries whose end nobody knows. Records to be stored, final ones among them."""
        line = self._lines[channel]
        begun = [item.delivery.id for item in line.queue.values() if item.delivery.outcome is Outcome.SENDING]
        return [self.settle(key, channel, Unknown("stopped while sending"), now_ns, jitter) for key in begun]

    def silent(self, channel: str, now_ns: int) -> bool:
        """Whether the last try had no answer and there is something to send: find out first whether anybody is there,
        and tell it `asked`. So an hour of silence costs one uncertain try, not one of each message."""
        line = self._lines[channel]
        return line.silent and _next(line, now_ns) is not None

    def asked(self, channel: str, answers: bool, now_ns: int, jitter: float) -> None:
        line = self._lines[channel]
        line.silent = not answers
        if not answers:
            _pause(line, now_ns, jitter)

    def begin(self, channel: str, now_ns: int) -> Try | None:
        """The next try of a channel, if there is one now. Store its delivery, then send it, then `settle`."""
        line = self._lines[channel]
        item = _next(line, now_ns)
        if item is None:
            return None
        begun = replace(item.delivery, outcome=Outcome.SENDING)
        line.queue[begun.id] = Item(begun, item.alert)
        reply_to = line.replies.get(begun.fingerprint, 0) if begun.state is Happening.RESOLVED else 0
        return Try(begun, item.alert, reply_to)

    def when_ns(self, channel: str) -> int | None:
        """When there may be something to do next; None while there is nothing."""
        line = self._lines[channel]
        times = [item.delivery.next_at_ns for item in first_of_each(line.queue.values())]
        sends = [max(min(times), line.blocked_until_ns())] if times else []
        digests = [] if line.digesting else [held.until_ns for held in line.held.values()]
        return min((*sends, *digests), default=None)

    def settle(self, key: str, channel: str, result: Result, now_ns: int, jitter: float) -> Delivery:
        """What a try came to; the record is to be stored. jitter: at random, 0 to 1."""
        line = self._lines[channel]
        before, alert = line.queue[key]
        after = after_try(before, result, now_ns, jitter)
        self._note(line, result, now_ns, jitter)
        if after.outcome in FINAL:
            del line.queue[key]
            self._note_end(line, after)
        else:
            line.queue[key] = Item(after, alert)
        return after

    def _note(self, line: Line, result: Result, now_ns: int, jitter: float) -> None:
        """What a try says of the channel and of its bot."""
        if isinstance(result, Sent | Unknown):
            line.pace.sent(now_ns)
            line.bot.pace.sent(now_ns)
        line.silent = isinstance(result, Unknown)
        if isinstance(result, Sent):
            if line.failures:  # it was the channel, not what was sent: the most urgent need not wait any longer
                for key, (delivery, alert) in list(line.queue.items()):
                    line.queue[key] = Item(replace(delivery, next_at_ns=min(now_ns, delivery.next_at_ns)), alert)
            line.failures = 0
        elif isinstance(result, Failed | Unknown):
            _pause(line, now_ns, jitter)
        elif isinstance(result, Slow):
            line.paused_until_ns = now_ns + int(result.retry_after_s * SECOND_NS)
            other, until_ns = line.bot.slowed
            if other not in ("", line.plan.channel) and until_ns > now_ns:
                line.bot.paused_until_ns = line.paused_until_ns  # two chats at once: it is the bot that is too fast
            line.bot.slowed = (line.plan.channel, line.paused_until_ns)
        elif isinstance(result, BadToken):
            line.bot.paused_until_ns = now_ns + BAD_TOKEN_NS
        elif isinstance(result, Gone):
            line.disabled = result.reason

    def _note_end(self, line: Line, record: Delivery) -> None:
        if record.state is Happening.FIRING and record.outcome is Outcome.SENT and record.message_ids:
            line.replies[record.fingerprint] = record.message_ids[0]
        elif record.state is Happening.RESOLVED:
            line.replies.pop(record.fingerprint, None)

    # What people may want to know

    def waiting(self) -> list[Delivery]:
        told = (line for line in self._lines.values() if not line.plan.canaries)
        return [item.delivery for line in told for item in line.queue.values()]

    def busy(self, channel: str) -> bool:
        return bool(self._lines[channel].queue)

    def held(self) -> list[Delivery]:
        kept = (held for line in self._lines.values() for held in (line.held, *line.flapping.values()))
        return [one.delivery for held in kept for one in held.values()]

    def disabled(self) -> Mapping[str, str]:
        return {channel: line.disabled for channel, line in self._lines.items()}


def _next(line: Line, now_ns: int) -> Item | None:
    """What is to be sent now, if anything."""
    if now_ns < line.blocked_until_ns():
        return None
    ready = (item for item in first_of_each(line.queue.values()) if item.delivery.next_at_ns <= now_ns)
    return min(ready, key=urgency, default=None)


def _pause(line: Line, now_ns: int, jitter: float) -> None:
    line.failures += 1
    line.paused_until_ns = now_ns + min(CHANNEL_BACKOFF_NS_MAX, backoff_ns(line.failures, jitter))


def _delivery(sequence: int, channel: str, alert: Alert, at_ns: int) -> Delivery:
    return Delivery(
        id=delivery_id(sequence, channel),
        sequence=sequence,
        channel=channel,
        alert_id=alert.id,
        fingerprint=alert.fingerprint,
        name=alert.name,
        level=alert.level,
        state=alert.state,
        summary=alert.summary,
        queued_at_ns=at_ns,
    )
