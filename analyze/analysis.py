"""The one analysis of all open tokens, shared by all users: token events in, decisions out.

**Time** is the newest `seen_at_ns` that was fed; nothing here reads a clock. A token opens with its creation and closes
TOKEN_LIFE_NS later, or when more than OPEN_TOKENS_MAX are open, the one opened first going first. Coins whose frames
show no curve (bonk, USDC) are counted and not opened: nothing tells their price, so nobody could act on a score; a USDC
coin's frame does not even tell its mint. Mayhem coins are scored like others, and their decisions say that their
arithmetic is not known. Trades and migrations of tokens that are not open change nothing, but for a migration that
comes just ahead of its creation.

**A strategy announces** a token when its score exceeds all that it announced of it before: a decision for the users
whose thresholds lie in between. The score itself may fall again; nobody is told twice.

**A rug alarm** is a SELL decision of the origin RUG_ALARM, at most one for an event: each level of each kind once a
token (alarms.py), its score being the severity. From then on strategies still score the token and announce nothing:
who was not in it is not sent in.

**Rebuilding.** Everything is forgotten by age, so the state is a function of the events of the last HORIZON_NS. A
process that starts feeds the stored events from `newest.seen_at_ns - HORIZON_NS` (or earlier, no matter) up to the last
acknowledged one, throws the decisions away, and goes on as if it had never stopped.

**Repetitions** change nothing: the same bytes again, however late, and the same event heard again (with a new time)
within DUPLICATE_NS, which is as long as the broker keeps ids; what is older than that many nanoseconds counts as a
repetition. A creation heard again later than that is ignored while its token is open, and opens it anew afterwards;
its decisions then have the ids of the first time.

**A gap in the feed** marks every token created before its end (feature `gap_seen`).

**Of a part of the mints.** An analysis may be told which mints are its own. It is fed every creation and gap all the
same, since names and creators are counted over all coins, and the trades and migrations of its own coins; of the others
it need know no more than their times (`pass_over`). Then it announces what the analysis of all would announce of its
coins, unless a bound on a number is reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from analyze import alarms, decisions
from analyze.alarms import Kind, Raised
from analyze.features import Look, Predictor
from analyze.memory import EarlyMigrations, EventIds, LaunchCounts
from analyze.score import Silence
from analyze.strategies import ON_CREATION, ON_TRADE, Judge
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.tokens import CURVE_POOLS, Token, has_curve
from analyze.windows import SECOND_NS
from schemas.config import RISK_THRESHOLDS
from schemas.events import (
    Decision,
    FeedGap,
    Origin,
    Score,
    Strategy,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
)

MINUTE_NS: Final = 60 * SECOND_NS

TOKEN_LIFE_NS: Final = 60 * MINUTE_NS
# As long as the broker's deduplication window of TOKENS.
DUPLICATE_NS: Final = 10 * MINUTE_NS
# How far back a rebuild reads: a repetition may open a token DUPLICATE_NS after the creation that the rebuild missed.
HORIZON_NS: Final = TOKEN_LIFE_NS + DUPLICATE_NS

# Forty times the mean number of launches in an hour. Measured: 2.5 kB for a coin without trades, and 300 bytes for each
# trade of its last five minutes that was heard: 25 kB for the mean coin's 77, 400 kB where every bound is reached.
OPEN_TOKENS_MAX: Final = 50_000

# Trades of a new token are wanted for this long, and again from each trade at which it scores for somebody.
WATCH_NS: Final = 5 * MINUTE_NS
WATCH_SCORE_MIN: Final = min(RISK_THRESHOLDS.values())
# A watch is extended in steps of at least this, so that a hot coin is no flood of changes.
WATCH_STEP_NS: Final = MINUTE_NS
# A coin this far along its curve is wanted for as long as it trades: GRADUATION looks at what comes then.
WATCH_PROGRESS_BPS_MIN: Final = 4_000

# Counted under this name: what concerns an event and not a strategy.
EVENTS: Final = "EVENTS"
DECIDED: Final = "DECIDED"
NO_NEWS: Final = "NO_NEWS"  # scored, and not above what was announced before
ALARMED: Final = "ALARMED"  # scored, and not announced because of a rug alarm
REPEATED: Final = "REPEATED"


class _Open:
    """An open token and what was said of it. scores: the newest of each strategy; announced: the highest.

    mine: whether anything is to be said of it.
    point_passed: whether its decision point is over (strategies/predictions.py).
    """

    __slots__ = (
        "announced", "mine", "opened_at_ns", "point_passed", "raised", "scored_at_ns", "scores", "token",
        "watch_until_ns",
    )  # fmt: skip

    def __init__(self, token: Token, opened_at_ns: int, mine: bool) -> None:
        self.token = token
        self.mine = mine
        self.opened_at_ns = opened_at_ns
        self.watch_until_ns = 0
        self.scores: dict[str, int] = {}
        self.announced: dict[Strategy, int] = {}
        self.scored_at_ns = 0
        self.raised = Raised()
        self.point_passed = False


class Analysis:
    """counters: (strategy, RUG_ALARM or EVENTS; outcome) -> how often, since the start.
    predictor: the model that AI_PREDICTIONS asks, None for none; may be changed between two events.
    open_count: how many tokens are open, of one's own.
    """

    def __init__(self, open_tokens_max: int = OPEN_TOKENS_MAX, mine: Callable[[str], bool] = lambda mint: True) -> None:
        """mine: whether a mint is one's own."""
        self._mine = mine
        self._open_tokens_max = open_tokens_max
        self._now_ns = 0
        self._open: dict[str, _Open] = {}
        self._order: deque[_Open] = deque()  # the open ones, opened first first
        self._ids = EventIds(DUPLICATE_NS)
        self._launches = LaunchCounts(TOKEN_LIFE_NS)
        self._early_migrations = EarlyMigrations(DUPLICATE_NS)
        self._gap_until_ns = 0
        self._changed_scores: dict[str, None] = {}
        self.open_count = 0
        self._changed_watches: dict[str, int] = {}
        self.predictor: Predictor | None = None
        outcomes = (DECIDED, NO_NEWS, ALARMED, *Silence)
        self.counters: dict[tuple[str, str], int] = {
            (str(strategy), str(outcome)): 0 for strategy in (*ON_CREATION, *ON_TRADE) for outcome in outcomes
        }
        self.counters.update({(str(Origin.RUG_ALARM), str(kind)): 0 for kind in Kind})
        self.counters[EVENTS, REPEATED] = 0

    def feed(self, event: TokenEvent) -> list[Decision]:
        """Fold one event in; what the strategies announce because of it."""
        now_ns = self._now_ns = max(self._now_ns, event.seen_at_ns)
        if self._ids.repeated(event.id, event.seen_at_ns, now_ns):
            self.counters[EVENTS, REPEATED] += 1
            return []
        self._close_old(now_ns)
        if isinstance(event, TokenTraded):
            return self._traded(event)
        if isinstance(event, TokenCreated):
            return self._created(event, now_ns)
        if isinstance(event, TokenMigrated):
            self._migrated(event, now_ns)
        else:
            self._gap(event)
        return []

    def pass_over(self, seen_at_ns: int) -> None:
        """A trade or a migration of somebody else's coin was seen."""
        self._now_ns = max(self._now_ns, seen_at_ns)
        self._close_old(self._now_ns)

    def take_scores(self) -> list[Score]:
        """The newest scores of the open tokens whose scores changed since the last call."""
        changed, self._changed_scores = self._changed_scores, {}
        opened = ((mint, self._open[mint]) for mint in changed)
        return [Score(mint=mint, scores=dict(entry.scores), at_ns=entry.scored_at_ns) for mint, entry in opened]

    def take_watch_changes(self) -> list[tuple[str, int]]:
        """Mints and until when their trades are wanted, changed since the last call; a time that is past: no more."""
        changed, self._changed_watches = self._changed_watches, {}
        return list(changed.items())

    def watch_wanted(self) -> dict[str, int]:
        """All mints whose trades are wanted now, and until when."""
        return {mint: entry.watch_until_ns for mint, entry in self._open.items() if entry.watch_until_ns > self._now_ns}

    def _created(self, event: TokenCreated, now_ns: int) -> list[Decision]:
        if event.mint in self._open:
            self.counters[EVENTS, REPEATED] += 1
            return []
        launches, mine = self._launches.note(event, now_ns), self._mine(event.mint)
        if not has_curve(event):
            self._silent(ON_CREATION if mine else (), Silence.NO_CURVE)
            return []
        token = Token(event, launches)
        token.migrated = self._early_migrations.take(event.mint, now_ns)
        opened = _Open(token, now_ns, mine)
        self._open[event.mint] = opened
        self.open_count += mine
        self._order.append(opened)
        if len(self._open) > self._open_tokens_max:
            self._close(self._order.popleft())
        if not mine:
            return []
        if not (token.migrated or token.complete):
            self._watch(opened, event.seen_at_ns + WATCH_NS)
        return self._judged(ON_CREATION, opened, event, self._look(token, event))

    def _traded(self, event: TokenTraded) -> list[Decision]:
        opened = self._open.get(event.mint)
        if opened is None:
            self._silent(ON_TRADE, Silence.NOT_OPEN)
            return []
        token = opened.token
        token.trade(event)
        rung = self._alarmed(opened, event)
        if event.market is None:
            # A trade in a pool is a migration that was not heard.
            token.migrated = token.migrated or event.pool not in CURVE_POOLS
            self._unwatch_finished(opened)
            self._silent(ON_TRADE, Silence.NO_MARKET)
            return rung
        self._unwatch_finished(opened)
        at_point = not opened.point_passed and event.seen_at_ns >= token.created_at_ns + DECISION_AGE_NS
        opened.point_passed = opened.point_passed or at_point
        if not (token.migrated or token.complete):
            if event.seen_at_ns > opened.watch_until_ns:
                self._silent(ON_TRADE, Silence.WINDOW_OVER)
                return rung
            if token.progress_bps >= WATCH_PROGRESS_BPS_MIN:
                self._watch_on(opened, event.seen_at_ns)
        return rung + self._judged(ON_TRADE, opened, event, self._look(token, event, at_point))

    def _alarmed(self, opened: _Open, event: TokenTraded) -> list[Decision]:
        """At most one decision, however many kinds reach a level at once."""
        token, raised = opened.token, opened.raised
        previous = raised.severity
        rung = raised.raise_new(alarms.measure(token, event.seen_at_ns, event.market is not None))
        if not rung:
            return []
        for alarm in rung:
            self.counters[Origin.RUG_ALARM, alarm.kind] += 1
        return [decisions.sell(event, token, rung, previous, self._look(token, event))]

    def _look(self, token: Token, event: TokenCreated | TokenTraded, at_point: bool = False) -> Look:
        gap_seen = token.created_at_ns < self._gap_until_ns
        return Look(token, event.seen_at_ns, gap_seen, predictor=self.predictor, at_decision_point=at_point)

    def _migrated(self, event: TokenMigrated, now_ns: int) -> None:
        opened = self._open.get(event.mint)
        if opened is None:
            self._early_migrations.note(event.mint, now_ns)
            return
        opened.token.migrated = True
        self._unwatch_finished(opened)

    def _gap(self, event: FeedGap) -> None:
        self._gap_until_ns = max(self._gap_until_ns, event.seen_at_ns)

    def _judged(
        self, judges: Mapping[Strategy, Judge], opened: _Open, event: TokenCreated | TokenTraded, look: Look
    ) -> list[Decision]:
        announced = []
        for strategy, judge in judges.items():
            opinion = judge(look)
            if isinstance(opinion, Silence):
                self.counters[strategy, opinion] += 1
                continue
            self._scored(opened, strategy, opinion.score, event.seen_at_ns)
            previous = opened.announced.get(strategy, -1)
            if opinion.score <= previous or opened.raised:
                self.counters[strategy, ALARMED if opened.raised else NO_NEWS] += 1
                continue
            opened.announced[strategy] = opinion.score
            self.counters[strategy, DECIDED] += 1
            announced.append(decisions.buy(event, opened.token, strategy, opinion, previous))
        return announced

    def _scored(self, opened: _Open, strategy: Strategy, score: int, now_ns: int) -> None:
        if opened.scores.get(strategy) != score:
            opened.scores[strategy] = score
            opened.scored_at_ns = now_ns
            self._changed_scores[opened.token.mint] = None
        if strategy in ON_TRADE and score >= WATCH_SCORE_MIN:
            self._watch_on(opened, now_ns)

    def _watch_on(self, opened: _Open, now_ns: int) -> None:
        until_ns = min(now_ns + WATCH_NS, opened.opened_at_ns + TOKEN_LIFE_NS)
        if until_ns >= opened.watch_until_ns + WATCH_STEP_NS:
            self._watch(opened, until_ns)

    def _watch(self, opened: _Open, until_ns: int) -> None:
        opened.watch_until_ns = until_ns
        self._changed_watches[opened.token.mint] = until_ns
        if len(self._changed_watches) > 2 * self._open_tokens_max:
            # Nobody took them for long (a rebuild): what is over by now need not be said.
            wanted = self._changed_watches.items()
            self._changed_watches = {mint: until for mint, until in wanted if until > self._now_ns}

    def _unwatch_finished(self, opened: _Open) -> None:
        """What has left its curve, or is about to, is of no interest to strategies on trades."""
        if (opened.token.migrated or opened.token.complete) and opened.watch_until_ns > self._now_ns:
            self._watch(opened, self._now_ns)

    def _close_old(self, now_ns: int) -> None:
        order = self._order
        while order and order[0].opened_at_ns <= now_ns - TOKEN_LIFE_NS:
            self._close(order.popleft())

    def _close(self, opened: _Open) -> None:
        mint = opened.token.mint
        del self._open[mint]
        self.open_count -= opened.mine
        self._changed_scores.pop(mint, None)
        if opened.watch_until_ns > self._now_ns:
            self._watch(opened, self._now_ns)

    def _silent(self, strategies: Iterable[Strategy], reason: Silence) -> None:
        for strategy in strategies:
            self.counters[strategy, reason] += 1
