"""What a day came to: opportunities, returns, profit by strategy, sources, the feed, errors. Pure: a fold of streams.

An **opportunity** is a coin that a strategy announced to buy, counted once however often its score rose.
Its **return** is what its sales in the period gained, over what the sold part had cost, all users and all fees in it;
the **mean return** is the plain mean of the opportunities' returns, so that each counts once.
**Profit** is realised: sales of the period less what the sold part had cost, whenever it was bought.
A **source** is where coins trade ("pump", "bonk"); it is active when it launched one in the period.
The feed was **up** unless it says that it was not (a gap), or is silent until now for longer than SILENCE_NS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from observer.replay.report import Holding
from observer.times import SECOND_NS, iso
from schemas.events import Append, Decision, FeedGap, Fill, Origin, Refusal, Side, origin_of
from schemas.money import BPS

DAY_NS: Final = 86_400 * SECOND_NS
# A position is closed a day after it was opened at the latest, but for what migrated and is sold in steps.
LOOK_BACK_NS: Final = 2 * DAY_NS
SILENCE_NS: Final = 60 * SECOND_NS
# A stream that is kept for a day has lost the first moments of it when a report is read.
TOLERANCE_NS: Final = 300 * SECOND_NS
TOP_MAX: Final = 5
SOURCES_MAX: Final = 50
UNKNOWN: Final = "UNKNOWN"


class StrategyDay(msgspec.Struct, kw_only=True):
    """One strategy's day. cost_lamports: of what was sold; roi_bps: of it, rounded down; None where nothing was."""

    strategy: str
    opportunities: int = 0
    entries: int = 0
    closed: int = 0
    won: int = 0
    refused: int = 0
    pnl_lamports: int = 0
    fees_lamports: int = 0
    cost_lamports: int = 0
    roi_bps: int | None = None


class Opportunity(msgspec.Struct, kw_only=True):
    """One coin as one strategy announced it, with its sales of the period. symbol: as its creator spelt it."""

    mint: str
    strategy: str
    symbol: str = ""
    users: int = 0
    cost_lamports: int = 0
    pnl_lamports: int = 0
    roi_bps: int = 0


class FeedDay(msgspec.Struct, frozen=True, kw_only=True):
    """uptime_bps: of the time that is known of, None where none is. down: whether it is silent at the end."""

    uptime_bps: int | None
    known_ns: int
    unheard_ns: int
    longest_ns: int
    gaps: int
    down: bool


class Daily(msgspec.Struct, frozen=True, kw_only=True):
    """A day's report. Times are ISO 8601 UTC, money is lamports, *_bps are 1/10,000.

    trades_roi_bps: of all that was sold, by its cost; mean_roi_bps: see the module. None where nothing was sold.
    sources: coins launched, by where they trade. errors: dead letters by where they come from, whole messages each.
    unmatched: sales whose purchase lies too far back; they are in no sum.
    known_since: by stream, where it reaches back less far than the period, since when.
    """

    from_at: str
    to_at: str
    zone: str
    opportunities: int
    coins: int
    traded: int
    mean_roi_bps: int | None
    trades_roi_bps: int | None
    pnl_lamports: int
    top: list[Opportunity]
    strategies: list[StrategyDay]
    sources: dict[str, int]
    feed: FeedDay
    errors: dict[str, int]
    errors_total: int
    unmatched: int
    known_since: dict[str, str]


class DayFold:
    """Folds messages, each stream's in order. The period holds its beginning and not its end."""

    def __init__(self, from_at_ns: int, to_at_ns: int) -> None:
        self.from_at_ns, self.to_at_ns = from_at_ns, to_at_ns
        self._announced: set[tuple[str, str]] = set()
        self._strategies = {str(origin): StrategyDay(strategy=str(origin)) for origin in Origin}
        del self._strategies[Origin.RUG_ALARM]
        self._held: dict[tuple[str, str], Holding] = {}
        self._sold: dict[tuple[str, str], tuple[Opportunity, set[str]]] = {}
        self._sources: dict[str, int] = {}
        self._gaps: list[tuple[int, int]] = []
        self._errors: dict[str, int] = {}
        self._unmatched = 0

    def _within(self, at_ns: int) -> bool:
        return self.from_at_ns <= at_ns < self.to_at_ns

    def created(self, pool: str, at_ns: int) -> None:
        """A coin was launched."""
        if self._within(at_ns) and (pool in self._sources or len(self._sources) < SOURCES_MAX):
            self._sources[pool] = self._sources.get(pool, 0) + 1

    def gap(self, gap: FeedGap) -> None:
        self._gaps.append((gap.from_at_ns, gap.seen_at_ns))

    def decision(self, decision: Decision) -> None:
        key = decision.mint, str(decision.strategy)
        if decision.side is not Side.BUY or not self._within(decision.decided_at_ns) or key in self._announced:
            return
        self._announced.add(key)
        self._of(key[1]).opportunities += 1

    def dead(self, source: str, at_ns: int) -> None:
        """A message that could not be processed. source: <stream>.<consumer>."""
        if self._within(at_ns):
            self._errors[source] = self._errors.get(source, 0) + 1

    def line(self, line: Append) -> None:
        """A line of the ledger, of the period or from LOOK_BACK_NS before it."""
        for entry in line.entries:
            if isinstance(entry, Fill):
                if entry.side is Side.BUY:
                    self._bought(line.user, entry)
                else:
                    self._sale(line.user, entry)
            elif isinstance(entry, Refusal) and entry.side is Side.BUY and self._within(entry.at_ns):
                self._of(_strategy(entry.signal_id)).refused += 1

    def _bought(self, user: str, fill: Fill) -> None:
        self._held[user, fill.mint] = Holding(fill, "")
        if self._within(fill.at_ns):
            day = self._of(_strategy(fill.signal_id))
            day.entries += 1
            day.fees_lamports += _fees(fill)

    def _sale(self, user: str, fill: Fill) -> None:
        held, within = self._held.get((user, fill.mint)), self._within(fill.at_ns)
        if held is None or fill.tokens > held.tokens:
            self._unmatched += within
            return
        gain = held.sell(fill)
        if not held.tokens:
            del self._held[user, fill.mint]
        if not within:
            return
        strategy = _strategy(fill.signal_id)
        day, cost = self._of(strategy), fill.lamports - gain
        day.pnl_lamports += gain
        day.cost_lamports += cost
        day.fees_lamports += _fees(fill)
        if not held.tokens:
            day.closed += 1
            day.won += held.received_lamports > held.cost_lamports
        key = fill.mint, strategy
        if key not in self._sold:
            self._sold[key] = Opportunity(mint=fill.mint, strategy=strategy), set()
        one, users = self._sold[key]
        users.add(user)
        one.cost_lamports += cost
        one.pnl_lamports += gain

    def _of(self, strategy: str) -> StrategyDay:
        return self._strategies.setdefault(strategy, StrategyDay(strategy=strategy))

    def best(self) -> list[Opportunity]:
        """The opportunities of the highest return, at most TOP_MAX."""
        ranked = sorted(self._returns(), key=lambda one: (-one.roi_bps, -one.pnl_lamports, one.mint, one.strategy))
        return ranked[:TOP_MAX]

    def _returns(self) -> list[Opportunity]:
        found = []
        for one, users in self._sold.values():
            one.users, one.roi_bps = len(users), roi_bps(one.pnl_lamports, one.cost_lamports) or 0
            found.append(one)
        return found

    def finish(
        self,
        *,
        zone: str,
        symbols: Mapping[str, str],
        feed_since_ns: int | None,
        feed_heard_ns: int | None,
        known_since_ns: Mapping[str, int],
    ) -> Daily:
        """The report. symbols: by mint, of the best. feed_since_ns, feed_heard_ns: the oldest and the newest message
        that TOKENS holds, None if it is empty. known_since_ns: where a stream's older messages are gone, by stream."""
        returns = [one.roi_bps for one in self._returns()]
        days = list(self._strategies.values())
        for day in days:
            day.roi_bps = roi_bps(day.pnl_lamports, day.cost_lamports)
        pnl, cost = sum(day.pnl_lamports for day in days), sum(day.cost_lamports for day in days)
        top = [msgspec.structs.replace(one, symbol=symbols.get(one.mint, "")) for one in self.best()]
        late = {name: at for name, at in known_since_ns.items() if at > self.from_at_ns + TOLERANCE_NS}
        return Daily(
            from_at=iso(self.from_at_ns),
            to_at=iso(self.to_at_ns),
            zone=zone,
            opportunities=len(self._announced),
            coins=len({mint for mint, _ in self._announced}),
            traded=len(returns),
            mean_roi_bps=sum(returns) // len(returns) if returns else None,
            trades_roi_bps=roi_bps(pnl, cost),
            pnl_lamports=pnl,
            top=top,
            strategies=days,
            sources=dict(sorted(self._sources.items(), key=lambda item: -item[1])),
            feed=feed_day(self._gaps, self.from_at_ns, self.to_at_ns, feed_since_ns, feed_heard_ns),
            errors=dict(sorted(self._errors.items(), key=lambda item: -item[1])),
            errors_total=sum(self._errors.values()),
            unmatched=self._unmatched,
            known_since={name: iso(at) for name, at in sorted(late.items())},
        )


def roi_bps(gain_lamports: int, cost_lamports: int) -> int | None:
    """A return in 1/10,000, rounded down; None where nothing was spent."""
    return gain_lamports * BPS // cost_lamports if cost_lamports > 0 else None


def feed_day(
    gaps: Sequence[tuple[int, int]], from_ns: int, to_ns: int, since_ns: int | None, heard_ns: int | None
) -> FeedDay:
    """since_ns, heard_ns: the oldest and the newest thing known to have been heard. Gaps may overlap and reach out of
    the period."""
    if since_ns is None or heard_ns is None:
        return FeedDay(uptime_bps=None, known_ns=0, unheard_ns=0, longest_ns=0, gaps=0, down=False)
    begin = max(from_ns, min([since_ns, *(start for start, _ in gaps)]))
    down = heard_ns < to_ns - SILENCE_NS
    spans = [*gaps, (heard_ns, to_ns)] if down else list(gaps)
    clipped = merged((max(begin, start), min(to_ns, end)) for start, end in spans)
    known = max(0, to_ns - begin)
    unheard = sum(end - start for start, end in clipped)
    return FeedDay(
        uptime_bps=(known - unheard) * BPS // known if known else None,
        known_ns=known,
        unheard_ns=unheard,
        longest_ns=max((end - start for start, end in clipped), default=0),
        gaps=len(clipped),
        down=down,
    )


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of time in order, without overlaps; empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _strategy(signal_id: str) -> str:
    return origin_of(signal_id) or UNKNOWN


def _fees(fill: Fill) -> int:
    return fill.protocol_fee_lamports + fill.creator_fee_lamports + fill.network_fee_lamports
