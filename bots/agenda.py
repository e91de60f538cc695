"""What waits for its time: events, signals and alarms that were heard, and what falls due (landings, deadlines).

At the same instant an event comes first, then signals, then alarms, then what is due; `next_up` gives one after
another. Deadlines are one heap, not a timer a user, and the one entry of each position and order that counts is in a
table beside it: a later deadline finds its place when the earlier comes.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import IntEnum

from bots.group import Arrived
from bots.positions import Account
from schemas import curve
from schemas.events import Decision, FeedGap, Signal, TokenEvent

NEVER_NS = 2**63 - 1
_VOID_MIN = 1_000  # void deadlines are left in the heap until they are as many as the others, and this many


class Kind(IntEnum):
    """In the order of one instant."""

    EVENT = 0
    SIGNAL = 1
    ALARM = 2
    DUE = 3


class Agenda:
    """See the module. Each `pop_…` follows a `next_up` that gave its kind."""

    def __init__(self) -> None:
        self._events: deque[TokenEvent] = deque()
        self._moving: dict[str, int] = {}  # events that wait, by mint
        self._heard_ns = 0  # events up to this time have been heard
        self._done_ns = 0  # everything that had come was acted on up to this time
        self.late = 0  # events, signals and alarms that came after the others of their time had been acted on
        self._alarms: deque[Decision] = deque()
        self._signals: list[tuple[int, int]] = []  # (when, sequence), a heap
        self._waiting: dict[int, Signal] = {}  # those in the heap; acted on ahead of time, they still tell a price
        self._unacted: dict[str, int] = {}  # signals that are not acted on yet, by user
        self._turn_ns: dict[str, int] = {}  # of such a user: the time of the last of them
        self._ahead: list[Arrived] = []  # may be acted on ahead of their time, which has not been heard of yet
        self._due: list[tuple[int, str, str]] = []  # (when, user, mint or pending order), a heap
        self._due_at: dict[tuple[str, str], int] = {}

    @property
    def waiting_events(self) -> int:
        return len(self._events)

    def next_ns(self) -> int:
        """The time of what comes next; NEVER_NS for nothing."""
        return self.next_up()[0]

    def next_up(self) -> tuple[int, Kind]:
        """When, and what."""
        best, kind = NEVER_NS, Kind.DUE
        if self._due:
            best = self._due[0][0]
        if self._alarms and self._alarms[0].decided_at_ns <= best:
            best, kind = self._alarms[0].decided_at_ns, Kind.ALARM
        if self._signals and self._signals[0][0] <= best:
            best, kind = self._signals[0][0], Kind.SIGNAL
        if self._events and self._events[0].seen_at_ns <= best:
            best, kind = self._events[0].seen_at_ns, Kind.EVENT
        return best, kind

    def done(self, until_ns: int) -> None:
        """Everything up to this time has been acted on."""
        self._done_ns = max(self._done_ns, until_ns)

    # Events and alarms, in their streams' order

    def hear(self, event: TokenEvent) -> None:
        self._events.append(event)
        self.late += event.seen_at_ns <= self._done_ns
        self._heard_ns = max(self._heard_ns, event.seen_at_ns)
        if not isinstance(event, FeedGap):
            self._moving[event.mint] = self._moving.get(event.mint, 0) + 1

    def pop_event(self) -> TokenEvent:
        event = self._events.popleft()
        if not isinstance(event, FeedGap):
            _less(self._moving, event.mint)
        return event

    def hear_alarm(self, alarm: Decision) -> None:
        self._alarms.append(alarm)
        self.late += alarm.decided_at_ns <= self._done_ns

    def pop_alarm(self) -> Decision:
        return self._alarms.popleft()

    # Signals

    def arrive(self, arrived: Arrived, until_ns: int) -> bool:
        """Take a signal in; False where it waits already. until_ns: up to then everything is about to be acted on.

        A user's signals are acted on in the order of their sequences, since the ledger keeps the last one's only. Where
        one part of the mints is ahead of another, the later one may be of an earlier time; then it waits for its turn.
        """
        signal, sequence = arrived
        if sequence in self._waiting:
            return False  # the broker gave it again, impatient for its acknowledgement
        turn_ns = max(signal.decided_at_ns, self._turn_ns.get(signal.user, 0))
        self._turn_ns[signal.user] = turn_ns
        heapq.heappush(self._signals, (turn_ns, sequence))
        self._waiting[sequence] = signal
        self.late += signal.decided_at_ns <= self._done_ns
        self._unacted[signal.user] = self._unacted.get(signal.user, 0) + 1
        if signal.decided_at_ns > until_ns:
            self._ahead.append(arrived)
        return True

    def pop_signal(self) -> Arrived:
        _, sequence = heapq.heappop(self._signals)
        return Arrived(self._waiting.pop(sequence), sequence)

    def acted(self, user: str) -> None:
        """One of the user's signals has been acted on."""
        _less(self._unacted, user)
        if user not in self._unacted:
            del self._turn_ns[user]

    @property
    def may_act_early(self) -> bool:
        """Whether a signal waits whose time has been heard of since it came."""
        return bool(self._ahead) and self._ahead[0].signal.decided_at_ns <= self._heard_ns

    def heard_of(self, until_ns: int) -> list[Arrived]:
        """Signals later than `until_ns` of times that have been heard of in full; each is given once."""
        ready = [a for a in self._ahead if until_ns < a.signal.decided_at_ns <= self._heard_ns]
        self._ahead = [a for a in self._ahead if a.signal.decided_at_ns > max(self._heard_ns, until_ns)]
        return ready

    def foremost(self, signal: Signal, account: Account) -> bool:
        """Whether nothing of its user's is left to be done before a signal of a time that has been heard of.

        An alarm may not have come yet; but it comes of an event of its own coin, and that one waits.
        """
        user, at_ns = signal.user, signal.decided_at_ns
        if self._unacted.get(user) != 1 or signal.market is None or curve.from_market(signal.market).complete:
            return False  # an earlier signal waits; or the newest price will be asked for, which is not there yet
        if any(self.due_ns(user, order_id) < at_ns for order_id in account.pending):
            return False
        return not any(self.due_ns(user, mint) < at_ns or mint in self._moving for mint in account.positions)

    def drop_signals(self) -> list[Signal]:
        """Forget those that wait, in the order of their times."""
        dropped = [self._waiting[sequence] for _, sequence in sorted(self._signals)]
        for index in (self._signals, self._waiting, self._unacted, self._turn_ns, self._ahead):
            index.clear()
        return dropped

    # What falls due

    def due_by(self, user: str, key: str, due_ns: int) -> None:
        """Look at it at this time or earlier."""
        if due_ns < self.due_ns(user, key):
            self._due_at[user, key] = due_ns
            heapq.heappush(self._due, (due_ns, user, key))
            if len(self._due) > 2 * len(self._due_at) + _VOID_MIN:
                self._due = [(at_ns, *known) for known, at_ns in self._due_at.items()]
                heapq.heapify(self._due)

    def due_ns(self, user: str, key: str) -> int:
        return self._due_at.get((user, key), NEVER_NS)

    def cancel(self, user: str, key: str) -> None:
        self._due_at.pop((user, key), None)

    def pop_due(self) -> tuple[int, str, str] | None:
        """When, whose, and which position or order; None for one that was cancelled or moved."""
        due_ns, user, key = heapq.heappop(self._due)
        if self.due_ns(user, key) != due_ns:
            return None
        del self._due_at[user, key]
        return due_ns, user, key


def _less(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
