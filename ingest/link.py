"""The feed's state machine: what is known about the one connection, and what to do about it.

    DOWN ──connecting──▶ CONNECTING ──opened──▶ OPENING ──acknowledgement──▶ SUBSCRIBED
     ▲                       │                     │                             │
     ├───────refused─────────┘                     │                             │
     ├───────lost, or no acknowledgement───────────┘                             │
     ├───────lost────────────────────────────────────────────────────────────────┤
     └──(connecting)── STALE ◀──no frame for SILENCE_NS───────────────────────────┘

A socket that is open proves nothing. PumpPortal sends no heartbeat and no sequence, so only frames prove that we hear:
OPENING ends with the first acknowledgement or event, and must end within ACKNOWLEDGE_NS (they come after 120-150 ms).
SUBSCRIBED is over when the connection is, or when nothing came for SILENCE_NS: the longest real silence in a recording
of 2026-07-03 was 19.9 s. STALE is DOWN with that reason.

What happened between two subscribed times is unknown, not calm: becoming SUBSCRIBED again yields a Gap, from the last
frame heard to now. The venue replays nothing.

The wait before each attempt doubles from DELAY_START_NS to DELAY_NS_MAX, with jitter in its upper half, and starts
over once a connection held for STABLE_NS (paid connections drop about 24 times an hour). A refusal that looks like a
ban or a second connection waits minutes instead: bans expire hourly, and each attempt may prolong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Union

from ingest.subscriptions import Subscriptions
from ingest.venues.pumpportal import ErrorKind, MalformedFrame, Notice, NoticeKind, VenueError, parse
from schemas.events import FeedGap, Struct, event_id

_SECOND_NS = 1_000_000_000
SILENCE_NS = 60 * _SECOND_NS
ACKNOWLEDGE_NS = 15 * _SECOND_NS
STABLE_NS = 60 * _SECOND_NS
DELAY_START_NS = _SECOND_NS // 2
DELAY_NS_MAX = 60 * _SECOND_NS
REFUSED_DELAY_START_NS = 60 * _SECOND_NS
REFUSED_DELAY_NS_MAX = 900 * _SECOND_NS
# A control frame has one field, and its name comes first; an event's first field is never named so.
_CONTROL_HEAD_BYTES = 16


class State(StrEnum):
    DOWN = "DOWN"
    CONNECTING = "CONNECTING"
    OPENING = "OPENING"
    SUBSCRIBED = "SUBSCRIBED"
    STALE = "STALE"


class Send(Struct, frozen=True, kw_only=True):
    """Write these text frames, in order."""

    frames: tuple[str, ...]


class Reconnect(Struct, frozen=True, kw_only=True):
    """Close what is open and connect again after the delay."""

    reason: str
    delay_ns: int


class Gap(Struct, frozen=True, kw_only=True):
    """Publish this before the frame that ended it."""

    event: FeedGap


Action = Union[Send, Reconnect, Gap]  # noqa: UP007 - used at run time


class Link:
    """One feed's link. Each method takes what happened and when, and returns what to do.

    feed: its name in subjects.
    has_key: whether the connection carries an API key.
    heard_at_ns: the last frame that an earlier life of this process heard; None if there was none, or nobody knows.
    """

    def __init__(
        self, feed: str, rng: Random, *, has_key: bool, heard_at_ns: int | None = None, silence_ns: int = SILENCE_NS
    ) -> None:
        self._feed = feed
        self._rng = rng
        self._silence_ns = silence_ns
        self._subscriptions = Subscriptions(has_key=has_key)
        self._since_ns = 0
        self._listening_from_ns = 0
        self._attempts = 0
        self._gap_from_ns = heard_at_ns  # what we hear before we are subscribed again ends no gap
        self._gap_reason = "restart"
        self.state = State.DOWN
        self.heard_at_ns = heard_at_ns
        self.reconnects = 0  # attempts after the first, for whatever reason
        self.trades_refused: NoticeKind | ErrorKind | None = None

    @property
    def since_ns(self) -> int:
        """When the present state began."""
        return self._since_ns

    @property
    def subscriptions(self) -> int:
        """Mints whose trades we have asked for."""
        return self._subscriptions.count

    def want(self, mints: Mapping[str, int]) -> None:
        """Replace the mints whose trades are needed: mint -> until_at_ns. Takes effect with the next `tick`."""
        self._subscriptions.want(mints)

    def connecting(self, now_ns: int) -> None:
        self._enter(State.CONNECTING, now_ns)

    def opened(self, now_ns: int) -> Send:
        """The handshake is done: ask for everything. `tick` sends what the pace does not allow at once."""
        self._enter(State.OPENING, now_ns)
        self._subscriptions.reconnected()
        return Send(frames=self._subscriptions.take(now_ns))

    def refused(self, reason: str, now_ns: int, *, looks_banned: bool) -> Reconnect:
        """No connection came about."""
        return self._down(State.DOWN, reason, now_ns, looks_banned=looks_banned)

    def lost(self, reason: str, now_ns: int, *, looks_banned: bool = False) -> Reconnect:
        """An open connection ended."""
        return self._down(State.DOWN, reason, now_ns, looks_banned=looks_banned)

    def frame(self, data: bytes, now_ns: int) -> Gap | None:
        """A frame came, whatever it says. Returns the gap that it ended, if it did."""
        head = data[:_CONTROL_HEAD_BYTES]
        proves = self.state is State.OPENING
        if proves or b'"message"' in head or b'"errors"' in head:
            proves = self._judge(data, now_ns) and proves
        self.heard_at_ns = self._listening_from_ns = now_ns
        if not proves:
            return None
        self._enter(State.SUBSCRIBED, now_ns)
        return None if self._gap_from_ns is None else self._gap(self._gap_from_ns, now_ns)

    def resumed(self, now_ns: int) -> None:
        """We did not read for a while (the sink was full): the silence until now was ours."""
        self._listening_from_ns = now_ns

    def tick(self, now_ns: int) -> Send | Reconnect | None:
        """Time passes, on an open connection. Cheap when there is nothing to do."""
        silent_ns = now_ns - self._listening_from_ns
        if self.state is State.OPENING and now_ns - self._since_ns >= ACKNOWLEDGE_NS:
            return self._down(State.STALE, "no_acknowledgement", now_ns)
        if self.state is State.SUBSCRIBED and silent_ns >= self._silence_ns:
            return self._down(State.STALE, "silence", now_ns)
        frames = self._subscriptions.take(now_ns)
        return Send(frames=frames) if frames else None

    def _judge(self, data: bytes, now_ns: int) -> bool:
        """Take note of a control frame. True for what only a subscriber gets: an event, an acknowledgement."""
        try:
            parsed = parse(data, now_ns)
        except MalformedFrame:
            return False
        if not isinstance(parsed, Notice | VenueError):
            return True
        if parsed.kind in (NoticeKind.UNFUNDED, ErrorKind.BAD_KEY):
            if self.trades_refused is not ErrorKind.BAD_KEY:  # with a bad key both are said; this one is the cause
                self.trades_refused = parsed.kind
            self._subscriptions.trades_refused(now_ns)
        elif parsed.kind is NoticeKind.SUBSCRIBED and parsed.text.endswith("keys."):
            self.trades_refused = None
        return parsed.kind is NoticeKind.SUBSCRIBED

    def _gap(self, from_at_ns: int, now_ns: int) -> Gap:
        identity = event_id("gap", self._feed, str(from_at_ns), str(now_ns))
        return Gap(
            event=FeedGap(
                id=identity, feed=self._feed, reason=self._gap_reason, from_at_ns=from_at_ns, seen_at_ns=now_ns
            )
        )

    def _enter(self, state: State, now_ns: int) -> None:
        self.state = state
        self._since_ns = self._listening_from_ns = now_ns

    def _down(self, state: State, reason: str, now_ns: int, *, looks_banned: bool = False) -> Reconnect:
        if self.state is State.SUBSCRIBED:
            # What ended the hearing is the gap's reason, not the refusals that followed.
            self._gap_from_ns, self._gap_reason = self.heard_at_ns, reason
            if now_ns - self._since_ns >= STABLE_NS:
                self._attempts = 0
        self._enter(state, now_ns)
        self.reconnects += 1
        return Reconnect(reason=reason, delay_ns=self._delay_ns(looks_banned=looks_banned))

    def _delay_ns(self, *, looks_banned: bool) -> int:
        start, most = DELAY_START_NS, DELAY_NS_MAX
        if looks_banned:
            start, most = REFUSED_DELAY_START_NS, REFUSED_DELAY_NS_MAX
        # The shift is bounded, too: attempts go on for days.
        delay = min(most, start << min(self._attempts, 10))
        self._attempts += 1
        return delay // 2 + self._rng.randrange(delay // 2 + 1)
