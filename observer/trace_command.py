"""The shell of `mintline trace`: reads what the streams hold of one token, and prints its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import cyclopts
import msgspec
from rich.console import Console

from observer.way import Asked, DecisionWay, Stored, UserWay, Way, asked, way
from runtime.asking import Failed, connected, failing
from runtime.bus import Bus
from runtime.readers import Follower
from runtime.settings import Common, load_common
from runtime.wire import In
from schemas.codec import Decoder, MalformedEvent
from schemas.events import Append, DeadLetter, Decision, Signal, TokenEvent
from schemas.subjects import partition

MESSAGES_MAX = 500_000  # read of one stream; a message is looked at only where it names the coin
MARGIN_NS = 1_000_000_000  # clocks of the broker and of whoever saw the frame

_event: Decoder[TokenEvent] = Decoder(TokenEvent)
_decision: Decoder[Decision] = Decoder(Decision)
_signal: Decoder[Signal] = Decoder(Signal)
_append: Decoder[Append] = Decoder(Append)
_letter: Decoder[DeadLetter] = Decoder(DeadLetter)


class NotFound(Failed):
    """The streams hold nothing of it."""


class Reading:
    """One look at the streams. incomplete: those that hold more than is read of a stream."""

    def __init__(self, bus: Bus, partitions: int, tell: Callable[[str], None]) -> None:
        self.incomplete: list[str] = []
        self._bus = bus
        self._partitions = partitions
        self._tell = tell

    async def way(self, wanted: Asked, users_max: int) -> Way:
        """Raises NotFound, Unavailable, BusError."""
        mint = wanted.mint or await self._mint(wanted)
        found = await self._of("TOKENS", f"tokens.*.{mint}", mint, _event)
        decisions = await self._of("DECISIONS", f"decisions.*.{mint}", mint, _decision)
        if not found and not decisions:
            raise NotFound(f"the streams hold nothing of {mint}")
        if decisions:
            since_ns = decisions[0].at_ns - MARGIN_NS
            user = f"{partition(wanted.user, self._partitions)}.{wanted.user}" if wanted.user else ""
            found += decisions
            found += await self._of("SIGNALS", f"signals.{user or '>'}", mint, _signal, since_ns)
            found += await self._of("FILLS", f"fills.{user or '>'}", mint, _append, since_ns)
        found += await self._of("DEAD", ">", mint, _letter, found[0].at_ns - MARGIN_NS)
        return way(wanted, mint, found, users_max=users_max, incomplete=self.incomplete)

    async def _mint(self, wanted: Asked) -> str:
        """Whose decision it is, or whose order."""
        id_ = wanted.decision or wanted.event
        strategy = id_.partition(":")[2] or "*"
        for stored in await self._of("DECISIONS", f"decisions.{strategy}.*", f'"id":"{id_}', _decision):
            if isinstance(stored.what, Decision):
                return stored.what.mint
        if wanted.user:
            subject = f"fills.{partition(wanted.user, self._partitions)}.{wanted.user}"
            for stored in await self._of("FILLS", subject, id_, _append):
                entries = stored.what.entries if isinstance(stored.what, Append) else ()
                for entry in entries:
                    if entry.signal_id.startswith(id_):
                        return entry.mint
        if not wanted.decision:
            for stored in await self._of("TOKENS", "tokens.>", f'"id":"{id_}"', _event):
                return str(getattr(stored.what, "mint", "")) or "none"
        raise NotFound(f"the streams hold nothing of {id_}")

    async def _of(
        self, stream: str, subject: str, needle: str, decode: Decoder[Any], since_ns: int | None = None
    ) -> list[Stored]:
        """What a stream holds under a subject that contains a text."""
        start: dict[str, int] = {"after_sequence": 0} if since_ns is None else {"since_ns": since_ns}
        follower, text, looked_at = Follower(self._bus, stream, subject, **start), needle.encode(), 0  # type: ignore[arg-type]
        found: list[Stored] = []
        self._tell(stream)
        try:
            while not follower.caught_up:
                messages = await follower.wait()
                looked_at += len(messages)
                found += _decoded(messages, text, decode)
                if looked_at >= MESSAGES_MAX:
                    self.incomplete.append(stream)
                    break
        finally:
            await follower.close()
        return found


def _decoded(messages: Sequence[In], text: bytes, decode: Decoder[Any]) -> list[Stored]:
    found = []
    for message in messages:
        if text in message.data:
            with contextlib.suppress(MalformedEvent):  # it is in DEAD
                found.append(Stored(message.at_ns, decode(message.data)))
    return found


async def trace(common: Common, wanted: Asked, users_max: int, tell: Callable[[str], None]) -> Way:
    """Raises NotFound, Unavailable, BusError, TimeoutError."""
    async with connected(common, "mintline-trace") as bus:
        return await Reading(bus, common.partitions, tell).way(wanted, users_max)


def text(found: Way) -> str:
    """For people."""
    lines = [f"coin {found.mint}, {found.events} events kept"]
    if found.created_seen_at_ns is not None and found.created_stored_at_ns is not None:
        took_us = (found.created_stored_at_ns - found.created_seen_at_ns) // 1000
        lines.append(f"created {_clock(found.created_seen_at_ns)}, in TOKENS {_ms(took_us)} after its frame")
    for decision in found.decisions:
        lines += ["", *_decision_text(decision)]
    if not found.decisions:
        lines.append("no decision")
    lines += [f"dead letter {reason}" for reason in found.dead]
    lines += [f"{stream}: only the first {MESSAGES_MAX:,} messages were read" for stream in found.incomplete]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _decision_text(one: DecisionWay) -> list[str]:
    event = one.event or "an event that TOKENS keeps no longer"
    lines = [
        f"{one.strategy} {one.side}, score {one.score}, on {event} seen {_clock(one.seen_at_ns)}",
        f"  trace {one.trace}",
    ]
    for delay in one.delays:
        several = delay.last_us != delay.first_us
        took = f"{_ms(delay.first_us)} to {_ms(delay.last_us)}" if several else _ms(delay.first_us)
        lines.append(f"  {delay.stage:<22}{took}")
    counts = ", ".join(f"{name} {count}" for name, count in one.outcomes.items())
    lines.append(f"  {one.users_total} users" + (f": {counts}" if counts else ""))
    if one.exits:
        lines.append("  sold: " + ", ".join(f"{name} {count}" for name, count in one.exits.items()))
    lines += [f"    {_user_text(user, one)}" for user in one.users]
    if one.users_total > len(one.users):
        lines.append(f"    and {one.users_total - len(one.users)} more (--users)")
    return lines


def _user_text(user: UserWay, decision: DecisionWay) -> str:
    signalled = "signal not kept" if user.signal_at_ns is None else f"signal {_after(user.signal_at_ns, decision)}"
    steps = [f"{line.what} {line.side} {line.reason} {_after(line.stored_at_ns, decision)}" for line in user.lines] or [
        "no outcome yet"
    ]
    return f"{user.user}: " + ", ".join([signalled, *steps])


def _after(at_ns: int, decision: DecisionWay) -> str:
    return "+" + _ms((at_ns - decision.seen_at_ns) // 1000)


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.1f} ms" if abs(microseconds) < 10_000_000 else f"{microseconds / 1e6:.1f} s"


def _clock(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S") + (
        f".{at_ns // 1_000_000 % 1000:03d} UTC"
    )


def cli(
    what: str,
    /,
    *,
    users: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=0, lte=100_000))] = 20,
    json: bool = False,
) -> None:
    """One token's way with its times, from the streams alone: frame, TOKENS, DECISIONS, SIGNALS, FILLS.

    Parameters
    ----------
    what
        A mint, or the id of an order; also of a signal, a decision or an event (a trace's id is its event's).
    users
        How many of the addressed users to show, the slowest first.
    json
        Print one JSON object.
    """
    with failing("trace", ValueError):
        wanted = asked(what)
        common = load_common(os.environ)
    status = Console(stderr=True).status("reading") if sys.stderr.isatty() else None
    with failing("trace"), status or contextlib.nullcontext():
        tell = (lambda stream: status.update(f"reading {stream}")) if status else lambda stream: None
        found = asyncio.run(trace(common, wanted, users, tell))
    shown = msgspec.json.encode(found).decode() if json else text(found)
    sys.stdout.write(shown + "\n")
