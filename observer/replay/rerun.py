"""A replay: recorded frames through the live line's analysis, matching and bots, as one function.

    frame -> ingest's parser -> the one analysis -> users by index -> their signals -> the book of all accounts

**Time is the recording's**, instant by instant, as `bots/book.py` orders it in the live line: at each instant first its
events, then signals and alarms, then what is due; what falls due between two frames is decided at its own time. So the
output is a function of the frames and of the users, byte for byte the same on every run, and the entries of every
ledger are those that the live line wrote for the same frames (docs/backtest.md has the conditions).

What differs from a live run: every recorded trade is analysed, watched or not, and gaps in the feed are not recorded,
so none is known. What is still held at the end stays open and is valued at its last price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from analyze.analysis import Analysis
from analyze.features import Predictor
from analyze.memory import EventIds
from bots.book import Book
from bots.group import Arrived, Group
from bots.paper import LANDING_NS_DEFAULT, proceeds_lamports
from dispatch.fanout import SIGNAL_TTL_NS, signal
from dispatch.preferences import Preferences
from ingest.recording import Recorded
from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from observer.replay.cohort import place_of
from observer.replay.report import POINTS_MAX, TRADES_MAX, Report, Tracker
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Decision, Entry, Fill, Side, Strategy, TokenCreated, TokenEvent
from schemas.subjects import TOKENS

SYMBOLS_MAX: Final = 20_000  # of coins, for the report; about half a day of launches
_SECOND_NS: Final = 1_000_000_000

Took = Callable[[str, Entry], None]


class UserFill(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="user_fill"):
    """One execution, and whose it is."""

    user: str
    strategy: Strategy
    fill: Fill


class Replay:
    """The whole line as one function: `frame` gives the lines that the frames so far lead to, `end` the rest.

    An instant is acted upon when a frame of a later one comes: that it is over is known only then.

    predictor: the model that AI_PREDICTIONS asks, None for none.
    tells: whether `frame` and `end` give lines at all. took: is told each entry of each ledger.
    points_max, trades_max: see Tracker. by_user: each user's results count apart, under the user as the risk.
    """

    def __init__(
        self,
        users: Iterable[tuple[str, BotConfig]],
        *,
        predictor: Predictor | None = None,
        landing_ns: int = LANDING_NS_DEFAULT,
        ttl_ns: int = SIGNAL_TTL_NS,
        tells: bool = True,
        took: Took | None = None,
        points_max: int = POINTS_MAX,
        trades_max: int = TRADES_MAX,
        by_user: bool = False,
    ) -> None:
        """Raises ConfigError for a user's configuration."""
        self._analysis = Analysis()
        self._analysis.predictor = predictor
        self._preferences = Preferences()
        self._book = Book(landing_ns)
        self._ttl_ns = ttl_ns
        self._ids = EventIds(TOKENS.dedup_window_s * _SECOND_NS)
        self._from_ns: int | None = None
        self._now_ns = 0
        self._signals: list[Arrived] = []
        self._signal_count = self._line_count = 0
        self._tells = tells
        self._took = took
        self._symbols: dict[str, str] = {}
        self._frames: dict[str, int] = {}
        self._decisions: dict[str, int] = {}
        self._repeated = 0
        places = {}
        for revision, (user, config) in enumerate(users, 1):
            wanted = BotWanted(user=user, wanted=Wanted.RUNNING, config=config, changed_at_ns=0)
            place = place_of(config)
            places[user] = place._replace(risk=user) if by_user else place
            self._preferences.apply(user, wanted, revision)
            self._book.configure(user, wanted, revision, 0)
        self._places = places
        self.tracker = Tracker(places, points_max=points_max, trades_max=trades_max)

    @property
    def signals(self) -> int:
        """How many were addressed to users."""
        return self._signal_count

    def frame(self, recorded: Recorded) -> Iterator[bytes]:
        """One frame, in order. Malformed ones are counted, as a live run keeps them apart."""
        try:
            parsed = parse(recorded.raw, recorded.seen_at_ns)
        except MalformedFrame:
            _count(self._frames, "malformed")
            return
        _count(self._frames, type(parsed).__name__)
        if isinstance(parsed, Notice | VenueError):
            return
        now_ns = max(self._now_ns, parsed.seen_at_ns)
        if self._ids.repeated(parsed.id, parsed.seen_at_ns, now_ns):
            self._repeated += 1
            return
        if self._from_ns is None:
            self._from_ns = self._now_ns = now_ns
        if now_ns > self._now_ns:
            yield from self._until(now_ns)
        yield from self._event(parsed)

    def end(self) -> Iterator[bytes]:
        """What the last instant leads to. Frames may follow, of later instants."""
        yield from self._instant()

    def finish(self) -> Report:
        """The totals; asked for once, behind the last frame."""
        for _ in self.end():
            pass
        total, groups = self.tracker.finish(self._now_ns, self._value)
        outcomes: dict[str, dict[str, int]] = {}
        for (of, outcome), times in self._analysis.counters.items():
            outcomes.setdefault(of, {})[outcome] = times
        return Report(
            frames=self._frames,
            repeated=self._repeated,
            from_at_ns=self._from_ns,
            to_at_ns=None if self._from_ns is None else self._now_ns,
            decisions=self._decisions,
            outcomes=outcomes,
            total=total,
            equity=self.tracker.equity,
            groups=groups,
            trades=self.tracker.trades,
            trades_total=self.tracker.trades_total,
        )

    def _until(self, now_ns: int) -> Iterator[bytes]:
        """Conclude the present instant, and all at which something falls due before the next event."""
        yield from self._instant()
        while (due_ns := self._book.next_at_ns()) is not None and due_ns < now_ns:
            self._now_ns = max(self._now_ns, due_ns)
            yield from self._instant()
        self._now_ns = now_ns

    def _event(self, event: TokenEvent) -> Iterator[bytes]:
        if isinstance(event, TokenCreated):
            self._note_symbol(event)
        self._book.hear(event)
        for decision in self._analysis.feed(event):
            _count(self._decisions, decision.strategy)
            if self._tells:
                yield encode(decision)
            if decision.side is Side.SELL:
                self._book.hear_alarm(decision)
            else:
                self._address(decision)

    def _address(self, decision: Decision) -> None:
        revision = self._preferences.revision
        for user in self._preferences.match(decision):
            self._signal_count += 1
            self._signals.append(Arrived(signal(decision, user, revision, self._ttl_ns), self._signal_count))

    def _instant(self) -> Iterator[bytes]:
        """Events, signals and alarms that were heard, and what is due by now."""
        group = self._book.act(self._signals, self._now_ns, self._now_ns)
        self._signals = []
        if group.drafts:
            yield from self._settle(group)

    def _settle(self, group: Group) -> Iterator[bytes]:
        self._book.settle(group, group.drafts, self._line_count + 1)
        self._line_count += len(group.drafts)
        took, tracker, symbols = self._took, self.tracker, self._symbols
        for draft in group.drafts:
            user = draft.append.user
            for entry in draft.append.entries:
                tracker.take(user, entry, symbols.get(entry.mint, ""))
                if took is not None:
                    took(user, entry)
                if self._tells and isinstance(entry, Fill):
                    yield encode(UserFill(user=user, strategy=self._places[user].strategy, fill=entry))

    def _value(self, mint: str, tokens: int) -> int | None:
        return proceeds_lamports(self._book.prices.get(mint), tokens)

    def _note_symbol(self, event: TokenCreated) -> None:
        if event.symbol:
            self._symbols[event.mint] = event.symbol
            if len(self._symbols) > SYMBOLS_MAX:
                del self._symbols[next(iter(self._symbols))]


def _count(counts: dict[str, int], name: str) -> None:
    counts[str(name)] = counts.get(str(name), 0) + 1
