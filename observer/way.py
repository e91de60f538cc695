"""One token's way through the line, from what the streams hold of it: when each stage stored what, and what came of it.

Times are those at which the broker stored a message, and for the frame the one at which it was seen. Nothing but the
streams is asked, so there is an answer without a trace backend, too, as long as the streams keep the messages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.events import (
    Append,
    DeadLetter,
    Decision,
    Entry,
    Fill,
    Intent,
    Side,
    Signal,
    Struct,
    TokenCreated,
    TokenMigrated,
    TokenTraded,
)

USERS_SHOWN = 20
DEAD_SHOWN = 10
_MINT = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}\Z")
_EVENT = re.compile(r"[0-9a-f]{32}\Z")

CoinEvent = TokenCreated | TokenTraded | TokenMigrated


class Asked(NamedTuple):
    """What is looked for: a coin, or by the beginning of an id one decision of it, or one user's share of that."""

    mint: str = ""
    event: str = ""
    decision: str = ""
    user: str = ""


def asked(text: str) -> Asked:
    """A mint, or the id of an event, a decision, a signal or an order. Raises ValueError.

    Ids derive from each other: `<event>:<strategy>:<user>:buy:exit1`.
    """
    event, *rest = text.split(":")
    if not _EVENT.match(event) or not all(rest):
        if _MINT.match(text):
            return Asked(mint=text)
        raise ValueError(f"{text[:80]!r} is neither a mint nor the id of an event, a decision, a signal or an order")
    decision = f"{event}:{rest[0]}" if rest else ""
    return Asked(event=event, decision=decision, user=rest[1] if len(rest) > 1 else "")


class Stored(NamedTuple):
    """Something and when its stream stored it."""

    at_ns: int
    what: CoinEvent | Decision | Signal | Append | DeadLetter


class Line(Struct, frozen=True, kw_only=True):
    """An entry of a user's ledger. what: "order", "fill" or "refusal"."""

    what: str
    side: Side
    reason: str
    id: str
    stored_at_ns: int


class UserWay(Struct, frozen=True, kw_only=True):
    """One addressed user. signal_at_ns: None where SIGNALS keeps it no longer. settled_at_ns: when the ledger had the
    signal's order or its refusal; None where it has neither."""

    user: str
    signal_at_ns: int | None
    settled_at_ns: int | None
    lines: tuple[Line, ...]

    @property
    def outcome(self) -> str:
        refusals = [line.reason for line in self.lines if line.what == "refusal"]
        if any(line.what == "fill" and line.side is Side.BUY for line in self.lines):
            return "bought"
        return refusals[-1] if refusals else "ordered" if self.lines else "open"


class Delay(Struct, frozen=True, kw_only=True):
    """From one stage to the next, in microseconds; over the users where there are several."""

    stage: str
    first_us: int
    last_us: int


class DecisionWay(Struct, frozen=True, kw_only=True):
    """event_stored_at_ns: None where TOKENS keeps the event no longer. users: the slowest first, as many as asked for;
    users_total: all that were addressed."""

    id: str
    trace: str
    strategy: str
    side: Side
    score: int
    event: str
    seen_at_ns: int
    event_stored_at_ns: int | None
    stored_at_ns: int
    delays: tuple[Delay, ...]
    outcomes: dict[str, int]
    exits: dict[str, int]
    users_total: int
    users: tuple[UserWay, ...]


class Way(Struct, frozen=True, kw_only=True):
    """incomplete: streams of which only a part was read. dead: reasons of dead letters about the coin."""

    mint: str
    created_seen_at_ns: int | None
    created_stored_at_ns: int | None
    events: int
    decisions: tuple[DecisionWay, ...]
    dead: tuple[str, ...]
    incomplete: tuple[str, ...]


def way(
    wanted: Asked, mint: str, found: Iterable[Stored], *, users_max: int = USERS_SHOWN, incomplete: Sequence[str] = ()
) -> Way:
    """found: whatever the streams hold about the coin, each stream's in order."""
    events: dict[str, Stored] = {}
    decisions: list[Stored] = []
    signals: dict[str, int] = {}  # when, by id
    lines: dict[str, list[Line]] = {}  # by signal
    dead: list[str] = []
    for stored in found:
        at_ns, what = stored
        if isinstance(what, Decision):
            decisions.append(stored)
        elif isinstance(what, Signal):
            signals[what.id] = at_ns
        elif isinstance(what, Append):
            for entry in what.entries:
                if entry.mint == mint:
                    lines.setdefault(entry.signal_id, []).append(_line(entry, at_ns))
        elif isinstance(what, DeadLetter):
            dead.append(f"{what.source}: {what.reason}")
        else:
            events.setdefault(what.id, stored)
    created = next((stored for stored in events.values() if isinstance(stored.what, TokenCreated)), None)
    ways = [
        _decision(stored.at_ns, stored.what, events, signals, lines, wanted.user, users_max)
        for stored in decisions
        if isinstance(stored.what, Decision) and _matches(wanted, stored.what.id)
    ]
    return Way(
        mint=mint,
        created_seen_at_ns=created.what.seen_at_ns if created and isinstance(created.what, TokenCreated) else None,
        created_stored_at_ns=created.at_ns if created else None,
        events=len(events), decisions=tuple(ways), dead=tuple(dead[:DEAD_SHOWN]), incomplete=tuple(incomplete),
    )  # fmt: skip


def _matches(wanted: Asked, decision_id: str) -> bool:
    if wanted.decision:
        return decision_id == wanted.decision
    return not wanted.event or decision_id.startswith(wanted.event)


def _line(entry: Entry, at_ns: int) -> Line:
    what = "order" if isinstance(entry, Intent) else "fill" if isinstance(entry, Fill) else "refusal"
    return Line(what=what, side=entry.side, reason=str(entry.reason), id=entry.id, stored_at_ns=at_ns)


def _decision(
    at_ns: int, decision: Decision, events: dict[str, Stored], signals: dict[str, int], lines: dict[str, list[Line]],
    user: str, users_max: int,
) -> DecisionWay:  # fmt: skip
    prefix = f"{decision.id}:"
    ids = sorted({id_ for id_ in (*signals, *lines) if id_.startswith(prefix)})
    users = [_user(id_.removeprefix(prefix), signals.get(id_), lines.get(id_, [])) for id_ in ids]
    if user:
        users = [one for one in users if one.user == user]
    event = events.get(decision.id[:32])
    outcomes = Counter(one.outcome for one in users)
    exits = Counter(
        line.reason for one in users for line in one.lines if line.what == "fill" and line.side is Side.SELL
    )
    slowest = sorted(users, key=lambda one: (-(one.settled_at_ns or 2**63), one.user))
    stored_ns = None if event is None else event.at_ns
    return DecisionWay(
        id=decision.id, trace=decision.id[:32], strategy=str(decision.strategy), side=decision.side,
        score=decision.score, event="" if event is None else type(event.what).__name__,
        seen_at_ns=decision.decided_at_ns, event_stored_at_ns=stored_ns, stored_at_ns=at_ns,
        delays=tuple(_delays(decision.decided_at_ns, stored_ns, at_ns, users)),
        outcomes=dict(sorted(outcomes.items())), exits=dict(sorted(exits.items())), users_total=len(users),
        users=tuple(slowest[:users_max]),
    )  # fmt: skip


def _user(user: str, signal_at_ns: int | None, lines: list[Line]) -> UserWay:
    settled = min((line.stored_at_ns for line in lines), default=None)
    return UserWay(user=user, signal_at_ns=signal_at_ns, settled_at_ns=settled, lines=tuple(lines))


def _delays(seen_ns: int, token_ns: int | None, decision_ns: int, users: Sequence[UserWay]) -> Iterable[Delay]:
    """Of each stage by itself, then of the whole."""
    if token_ns is not None:
        yield _delay("frame to TOKENS", [token_ns - seen_ns])
        yield _delay("TOKENS to DECISIONS", [decision_ns - token_ns])
    signalled = [one.signal_at_ns - decision_ns for one in users if one.signal_at_ns is not None]
    if signalled:
        yield _delay("DECISIONS to SIGNALS", signalled)
    settled = [
        one.settled_at_ns - one.signal_at_ns
        for one in users
        if one.settled_at_ns is not None and one.signal_at_ns is not None
    ]
    if settled:
        yield _delay("SIGNALS to FILLS", settled)
    whole = [one.settled_at_ns - seen_ns for one in users if one.settled_at_ns is not None]
    if whole:
        yield _delay("frame to FILLS", whole)
    landed = [took for one in users for took in _landings(one)]
    if landed:
        yield _delay("order to fill", landed)


def _landings(one: UserWay) -> Iterable[int]:
    ordered = next((line.stored_at_ns for line in one.lines if line.what == "order"), None)
    landed = next((line.stored_at_ns for line in one.lines if line.what == "fill"), None)
    if ordered is not None and landed is not None:
        yield landed - ordered


def _delay(stage: str, taken_ns: Sequence[int]) -> Delay:
    return Delay(stage=stage, first_us=min(taken_ns) // 1000, last_us=max(taken_ns) // 1000)
