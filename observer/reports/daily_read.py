"""Reads the streams of a period into a daily report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from observer.reports.daily import LOOK_BACK_NS, SILENCE_NS, Daily, DayFold
from observer.times import parse_iso
from runtime.bus import Bus
from runtime.readers import Follower, last_message, message_after
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent
from schemas.events import Append, Decision, FeedGap, TokenCreated, TokenEvent
from schemas.subjects import OF_THE_FEED, about_token, about_user

# A message is stored soon after the time it tells; so long after the period nothing of it comes any more.
STORED_LATE_NS = 10 * SILENCE_NS
READ_STREAMS = ("TOKENS", "DECISIONS", "FILLS", "DEAD")

_append: Decoder[Append] = Decoder(Append)
_decision: Decoder[Decision] = Decoder(Decision)
_event: Decoder[TokenEvent] = Decoder(TokenEvent)

T = TypeVar("T")


async def read_day(bus: Bus, from_at_ns: int, to_at_ns: int, zone: str) -> Daily:
    """The report of a period that is over, or ends now. Raises Unavailable, BusError."""
    fold = DayFold(from_at_ns, to_at_ns)
    gaps_at_ns: list[int] = []
    states = {name: (await bus.stream_info(name))["state"] for name in READ_STREAMS}

    def token(message: In) -> None:
        event = _event(message.data)
        if isinstance(event, FeedGap):
            fold.gap(event)
            gaps_at_ns.append(message.at_ns)
        elif isinstance(event, TokenCreated):
            fold.created(event.pool or "unknown", event.seen_at_ns)

    def line(message: In) -> None:
        if about_user(message.subject):
            fold.line(_append(message.data))

    def decision(message: In) -> None:
        if about_token(message.subject):
            fold.decision(_decision(message.data))

    def dead(message: In) -> None:
        fold.dead(message.subject.partition(".")[2], message.at_ns)

    # A gap is stored when it ends: the one that holds the period's end comes behind it.
    await _each(bus, "TOKENS", token, from_at_ns, None, ("tokens.created.*", "tokens.gap.*"))
    await _each(bus, "DECISIONS", decision, from_at_ns, to_at_ns)
    await _each(bus, "FILLS", line, from_at_ns - LOOK_BACK_NS, to_at_ns)
    await _each(bus, "DEAD", dead, from_at_ns, to_at_ns)
    oldest = [await message_after(bus, "TOKENS", 0, subject) for subject in OF_THE_FEED]
    newest = [await last_message(bus, "TOKENS", subject) for subject in OF_THE_FEED]
    return fold.finish(
        zone=zone,
        symbols={one.mint: await _symbol(bus, one.mint) for one in fold.best()},
        feed_since_ns=min((*_times(oldest), *gaps_at_ns), default=None),
        feed_heard_ns=max((*_times(newest), *gaps_at_ns), default=None),
        known_since_ns={name: first for name, state in states.items() if (first := _known_since(state)) is not None},
    )


def _times(messages: Iterable[In | None]) -> list[int]:
    return [message.at_ns for message in messages if message is not None]


def _known_since(state: dict[str, Any]) -> int | None:
    """When a stream's oldest message was stored, where it had older ones; None where it still holds all."""
    return parse_iso(state.get("first_ts")) if state["first_seq"] > 1 else None


async def _each(
    bus: Bus,
    stream: str,
    take: Callable[[In], None],
    from_at_ns: int,
    to_at_ns: int | None,
    subjects: str | tuple[str, ...] = ">",
) -> None:
    follower = Follower(bus, stream, subjects, since_ns=from_at_ns)
    try:
        while not follower.caught_up:
            for message in await follower.wait():
                if to_at_ns is not None and message.at_ns > to_at_ns + STORED_LATE_NS:
                    return
                try:
                    take(message)
                except MalformedEvent:
                    continue  # whoever should have worked on it has put it into DEAD, which is counted
    finally:
        await follower.close()


async def _symbol(bus: Bus, mint: str) -> str:
    """As its creator spelt it; "" where the launch is not kept any more."""
    message = await last_message(bus, "TOKENS", f"tokens.created.{mint}")
    if message is None:
        return ""
    try:
        event = _event(message.data)
    except MalformedEvent:
        return ""
    return (event.symbol or "") if isinstance(event, TokenCreated) else ""


def as_json(daily: Daily) -> str:
    return msgspec.json.format(msgspec.json.encode(daily), indent=2).decode() + "\n"
