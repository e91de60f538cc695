"""analyze/analysis.py: one analysis for all users, which a restart rebuilds exactly and a repetition does not move."""

import random
from bisect import bisect_left
from itertools import accumulate
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.alarms import LEVELS, Kind
from analyze.analysis import (
    ALARMED,
    DECIDED,
    DUPLICATE_NS,
    EVENTS,
    HORIZON_NS,
    MINUTE_NS,
    NO_NEWS,
    REPEATED,
    TOKEN_LIFE_NS,
    WATCH_NS,
    WATCH_SCORE_MIN,
    Analysis,
)
from analyze.features import Look
from analyze.score import Row, Scored, Silence, risk_of
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.windows import SECOND_NS
from schemas import curve
from schemas.codec import encode
from schemas.events import (
    Decision,
    FeedGap,
    Market,
    Origin,
    Quote,
    Side,
    Strategy,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
    decision_id,
)
from schemas.subjects import partition

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000


class World:
    """Makes events with real curve arithmetic, each with its own id."""

    def __init__(self) -> None:
        self.number = 0
        self.curves: dict[str, curve.Curve] = {}
        self.bought: dict[str, int] = {}

    def create(self, mint: str, at_ns: int = START, paid: int = SOL, **changes: Any) -> TokenCreated:
        first = curve.quote_buy_sol(curve.FRESH, paid)
        self.curves[mint] = first.after
        self.bought[mint] = first.tokens
        fields: dict[str, Any] = {
            "id": self._id(), "mint": mint, "signature": "s", "creator": f"dev-{mint}", "pool": "pump",
            "name": f"Coin {mint}", "symbol": mint, "uri": "ipfs://x", "dev_buy_tokens": first.tokens,
            "dev_buy_lamports": first.curve_lamports, "market": self._market(mint, at_ns), "quote": Quote.SOL,
            "mayhem": False, "seen_at_ns": at_ns,
        }  # fmt: skip
        return TokenCreated(**{**fields, **changes})

    def trade(
        self, mint: str, trader: str, amount: int, at_ns: int, side: Side = Side.BUY, **changes: Any
    ) -> TokenTraded:
        """amount: lamports to spend, or bps of all sold tokens to sell."""
        state = self.curves[mint]
        if side is Side.BUY:
            swap = curve.quote_buy_sol(state, amount)
        else:
            swap = curve.quote_sell(state, (curve.INITIAL_VIRTUAL_TOKENS - state.virtual_tokens) * amount // 10_000)
        self.curves[mint] = swap.after
        fields: dict[str, Any] = {
            "id": self._id(), "mint": mint, "signature": "s", "side": side, "trader": trader, "pool": "pump",
            "lamports": swap.curve_lamports, "tokens": swap.tokens, "trader_tokens_after": None,
            "market": self._market(mint, at_ns), "pool_lamports": None, "pool_tokens": None, "seen_at_ns": at_ns,
        }  # fmt: skip
        return TokenTraded(**{**fields, **changes})

    def created_tokens(self, mint: str) -> int:
        return self.bought[mint]

    def migrate(self, mint: str, at_ns: int) -> TokenMigrated:
        return TokenMigrated(id=self._id(), mint=mint, signature="s", pool="pump-amm", seen_at_ns=at_ns)

    def gap(self, from_ns: int, until_ns: int) -> FeedGap:
        return FeedGap(id=self._id(), feed="f", reason="SILENT", from_at_ns=from_ns, seen_at_ns=until_ns)

    def _id(self) -> str:
        self.number += 1
        return f"{self.number:032x}"

    def _market(self, mint: str, at_ns: int) -> Market:
        state = self.curves[mint]
        return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def fed(analysis: Analysis, *events: TokenEvent) -> list[Decision]:
    return [decision for event in events for decision in analysis.feed(event)]


def rush(world: World, mint: str, buyers: int = 12, from_s: float = 1, each: int = SOL) -> list[TokenTraded]:
    """So many buyers within 10 s."""
    step = 10 * SECOND_NS // buyers
    return [world.trade(mint, f"t{n}", each, START + int(from_s * SECOND_NS) + n * step) for n in range(buyers)]


# Decisions


def test_sniper_decides_once_at_the_creation() -> None:
    world, analysis = World(), Analysis()
    event = world.create("A")
    [decision] = analysis.feed(event)
    assert decision.id == decision_id(event.id, Strategy.SNIPER)
    assert (decision.strategy, decision.side, decision.mint) == (Origin.SNIPER, Side.BUY, "A")
    assert (decision.previous_score, decision.decided_at_ns) == (-1, event.seen_at_ns)
    assert (decision.market, decision.risk) == (event.market, risk_of(decision.score))
    assert decision.features["dev_buy_lamports"] == event.dev_buy_lamports
    assert decision.reasons[0] == "dev_buy_fair:+20"
    assert all(d.strategy is Origin.MOMENTUM for d in fed(analysis, *rush(world, "A")))


def test_momentum_announces_each_new_height_and_links_it_to_the_one_before() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"))
    decisions = fed(analysis, *rush(world, "A", 30, each=SOL // 2))
    scores = [decision.score for decision in decisions]
    assert len(scores) > 3
    assert scores == sorted(set(scores))
    assert [decision.previous_score for decision in decisions] == [-1, *scores[:-1]]
    heard = [threshold for d in decisions for threshold in range(d.previous_score + 1, d.score + 1)]
    assert heard == list(range(scores[-1] + 1))  # every user at most once, and all below the highest score


def test_a_score_that_falls_and_rises_again_is_no_news() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"))
    announced = fed(analysis, *rush(world, "A"))[-1].score
    at_ns = START + 12 * SECOND_NS
    assert fed(analysis, world.trade("A", "t1", 2_500, at_ns, Side.SELL)) == []
    assert analysis.take_scores()[0].scores[Strategy.MOMENTUM] < announced
    decisions = fed(analysis, *(world.trade("A", f"t{n}", SOL // 10, at_ns + n) for n in range(3)))
    assert all(decision.score > announced for decision in decisions)
    assert analysis.counters[Strategy.MOMENTUM, NO_NEWS] > 0


@pytest.mark.parametrize(
    "changes",
    [{"quote": Quote.USDC}, {"quote": Quote.UNKNOWN}, {"pool": "bonk"}, {"market": None}],
)
def test_coins_without_a_curve_are_counted_and_not_scored(changes: dict[str, Any]) -> None:
    world, analysis = World(), Analysis()
    event = world.create("A", **changes)
    assert fed(analysis, event, *rush(world, "A")) == []
    assert analysis.open_count == 0
    assert analysis.counters[Strategy.SNIPER, Silence.NO_CURVE] == 1
    assert analysis.counters[Strategy.MOMENTUM, Silence.NOT_OPEN] == 12
    assert analysis.take_watch_changes() == []


def test_a_mayhem_coin_is_announced_as_one_whose_arithmetic_is_not_known() -> None:
    world, analysis = World(), Analysis()
    decisions = fed(analysis, world.create("A", mayhem=True), *rush(world, "A"), world.create("B"))
    assert {d.strategy for d in decisions} == {Origin.SNIPER, Origin.MOMENTUM}
    assert {(d.mint, d.arithmetic_known) for d in decisions} == {("A", False), ("B", True)}
    assert {d.creator for d in decisions} == {"dev-A", "dev-B"}


def test_launches_of_unscored_coins_still_count_for_their_creator() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, *(world.create(f"M{n}", pool="bonk", creator="dev") for n in range(4)))
    [decision] = fed(analysis, world.create("A", creator="dev"))
    assert decision.features["creator_launches"] == 5


def test_trades_and_migrations_of_tokens_never_created_change_nothing() -> None:
    world, analysis = World(), Analysis()
    world.create("A")  # before we connected
    assert fed(analysis, *rush(world, "A"), world.migrate("A", START + 20 * SECOND_NS)) == []
    assert (analysis.open_count, analysis.take_scores(), analysis.take_watch_changes()) == (0, [], [])


@pytest.mark.parametrize("ahead_ns", [35_000_000, 0, -240_000_000])
def test_a_coin_bought_up_at_once_is_not_scored_after_its_migration(ahead_ns: int) -> None:
    """Recorded: the migration 35 and 240 ms after the creation; the frames may also come the other way round."""
    world, analysis = World(), Analysis()
    creation, migration = world.create("A", START), world.migrate("A", START - ahead_ns)
    decisions = fed(analysis, *sorted((creation, migration), key=lambda event: (event.seen_at_ns, event is creation)))
    assert len(decisions) == (0 if ahead_ns >= 0 else 1)
    assert fed(analysis, *rush(world, "A")) == []
    assert analysis.counters[Strategy.MOMENTUM, Silence.MIGRATED] == 12
    assert analysis.watch_wanted() == {}


def test_a_trade_in_a_pool_is_a_migration_that_was_not_heard() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), *rush(world, "A"))
    analysis.take_watch_changes()
    at_ns = START + 20 * SECOND_NS
    assert fed(analysis, world.trade("A", "x", SOL, at_ns, market=None, pool="pump-amm")) == []
    assert analysis.take_watch_changes() == [("A", at_ns)]
    assert fed(analysis, world.trade("A", "y", 5 * SOL, at_ns + 1)) == []
    assert analysis.counters[Strategy.MOMENTUM, Silence.MIGRATED] == 1


def test_a_gap_marks_the_tokens_created_before_its_end_and_no_others() -> None:
    world, analysis = World(), Analysis()
    before, after = world.create("A"), world.create("B", START + 10 * SECOND_NS)
    fed(analysis, before, world.gap(START, START + 5 * SECOND_NS), after)
    decisions = fed(analysis, *rush(world, "A", from_s=11), *rush(world, "B", from_s=11))
    marked = {mint: {d.features["gap_seen"] for d in decisions if d.mint == mint} for mint in "AB"}
    assert marked == {"A": {1}, "B": {0}}
    assert max(d.score for d in decisions if d.mint == "A") + 20 == max(d.score for d in decisions if d.mint == "B")


# Rug alarms


def dump(world: World, mint: str, bps: int, at_s: float, seller: str = "t0", **changes: Any) -> TokenTraded:
    """So much of all that the curve has sold is sold back at once."""
    return world.trade(mint, seller, bps, START + int(at_s * SECOND_NS), Side.SELL, **changes)


def test_a_crash_is_a_sell_decision_that_says_why() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), *rush(world, "A", 30))
    event = dump(world, "A", 8_000, 12)
    [decision] = analysis.feed(event)
    assert decision.id == f"{event.id}:RUG_ALARM"
    assert (decision.strategy, decision.side, decision.risk) == (Origin.RUG_ALARM, Side.SELL, None)
    assert (decision.mint, decision.creator, decision.market) == ("A", "dev-A", event.market)
    assert (decision.score, decision.previous_score, decision.reasons) == (75, -1, ("crash:+75",))
    assert decision.features["drawdown_bps"] >= 5_000
    assert decision.arithmetic_known
    assert decision.decided_at_ns == event.seen_at_ns
    assert analysis.counters[Origin.RUG_ALARM, Kind.CRASH] == 1


def test_an_alarm_is_raised_once_and_its_higher_level_once_more() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A", paid=2 * SOL), *rush(world, "A", 20))
    dev = world.created_tokens("A")
    sales = [
        (dev * 40 // 100, "trims"),
        (dev * 20 // 100, "half"),
        (dev * 20 // 100, "again"),
        (dev * 20 // 100, "out"),
    ]
    said = []
    for n, (tokens, _) in enumerate(sales):
        event = dump(world, "A", 300, 12 + n, "dev-A", tokens=tokens)
        said.append([(d.reasons, d.score, d.previous_score) for d in analysis.feed(event)])
    assert said == [[], [(("dev_sold_half:+70",), 70, -1)], [], [(("dev_sold_out:+90",), 90, 70)]]


def test_two_kinds_at_once_are_one_decision_and_the_worst_comes_first() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A", paid=2 * SOL), *rush(world, "A", 30))
    [decision] = analysis.feed(dump(world, "A", 8_500, 12, "dev-A", trader_tokens_after=0))
    assert decision.reasons == ("dev_sold_out:+90", "crash:+75")
    assert decision.score == 90


def test_after_an_alarm_nothing_is_announced_and_scores_go_on() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A", paid=2 * SOL), *rush(world, "A", 5, each=SOL // 10))
    fed(analysis, dump(world, "A", 300, 12, "dev-A", trader_tokens_after=0))
    analysis.take_scores()
    assert fed(analysis, *rush(world, "A", 30, from_s=20)) == []
    assert analysis.counters[Strategy.MOMENTUM, ALARMED] == 1 + 30  # the alarm's own trade, too
    assert analysis.take_scores()[0].scores[Strategy.MOMENTUM] > 0


def test_in_a_pool_only_the_creators_sales_are_an_alarm() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A", paid=2 * SOL), *rush(world, "A", 30), world.migrate("A", START + 12 * SECOND_NS))
    pool = {"market": None, "pool": "pump-amm"}
    assert fed(analysis, *(dump(world, "A", 500, 13 + n, f"t{n}", **pool) for n in range(6))) == []
    [decision] = analysis.feed(dump(world, "A", 500, 20, "dev-A", trader_tokens_after=0, **pool))
    assert decision.reasons == ("dev_sold_out:+90",)
    assert decision.market is None


def test_alarms_come_after_the_strategies_have_stopped_looking() -> None:
    """Somebody may hold the coin for an hour; bots keep its trades coming."""
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), *rush(world, "A", 10, each=SOL // 10))
    assert fed(analysis, *rush(world, "A", 10, from_s=2000)) == []
    assert analysis.counters[Strategy.MOMENTUM, Silence.WINDOW_OVER] > 0
    [decision] = analysis.feed(dump(world, "A", 300, 2020, "dev-A", trader_tokens_after=0))
    assert decision.strategy is Origin.RUG_ALARM


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_token_has_at_most_two_alarms_of_a_kind(seed: int) -> None:
    analysis, said = Analysis(), {}
    for decision in fed(analysis, *history(seed, 200)):
        if decision.strategy is Origin.RUG_ALARM:
            assert decision.side is Side.SELL
            said.setdefault(decision.mint, []).extend(reason.partition(":")[0] for reason in decision.reasons)
    kinds = {row.label: kind for kind, rows in LEVELS.items() for row in rows}
    for labels in said.values():
        assert len(set(labels)) == len(labels)
        assert max([kinds[label] for label in labels].count(kind) for kind in Kind) <= 2


# The model


class Doubling:
    """A model whose answer depends on several features, and that remembers when it was asked."""

    def __init__(self) -> None:
        self.asked_ms: list[int] = []

    def predict(self, look: Look) -> Scored:
        features = look.features
        self.asked_ms.append(features["age_ms"])
        score = (features["buys_60s"] * 7 + features["top_10_bps"] // 50 + features["creator_launches"]) % 101
        return Scored(score, (Row(0, "buys_60s", 21),), features, ("buys_60s",))


def test_a_model_decides_once_at_the_first_trade_after_its_age() -> None:
    world, analysis = World(), Analysis()
    analysis.predictor = model = Doubling()
    decisions = fed(analysis, world.create("A"), *rush(world, "A"), *rush(world, "A", from_s=33))
    [decision] = [d for d in decisions if d.strategy is Origin.AI_PREDICTIONS]
    assert model.asked_ms == [33_000]
    assert decision.decided_at_ns == START + 33 * SECOND_NS >= START + DECISION_AGE_NS
    assert decision.reasons == ("buys_60s:+21",)
    assert decision.features == {"age_ms": 33_000, "buys_60s": 13, "market_cap_lamports": ANY}
    assert analysis.counters[Strategy.AI_PREDICTIONS, Silence.TOO_EARLY] == 12
    assert analysis.counters[Strategy.AI_PREDICTIONS, Silence.POINT_OVER] == 11


def test_without_a_model_nothing_is_predicted_and_the_point_passes() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), *rush(world, "A"), *rush(world, "A", from_s=33))
    assert analysis.counters[Strategy.AI_PREDICTIONS, Silence.NO_MODEL] == 24
    analysis.predictor = Doubling()
    decisions = fed(analysis, *rush(world, "A", from_s=50))
    assert all(d.strategy is not Origin.AI_PREDICTIONS for d in decisions)


# Scores and watches


def test_a_coin_far_along_its_curve_is_watched_for_as_long_as_it_trades() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A", paid=20 * SOL))
    untils = []
    for minute in range(1, 60):
        fed(analysis, world.trade("A", "dev-A", SOL // 100, START + minute * MINUTE_NS))
        untils += [until for _, until in analysis.take_watch_changes()]
    assert untils[-1] == START + TOKEN_LIFE_NS
    assert len(untils) > 50


def test_scores_are_taken_once_and_only_the_newest() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), world.create("B"), *rush(world, "A"))
    scores = {score.mint: score for score in analysis.take_scores()}
    assert set(scores) == {"A", "B"}
    assert set(scores["A"].scores) == {Strategy.SNIPER, Strategy.MOMENTUM}
    assert scores["B"].at_ns == START
    assert analysis.take_scores() == []


def test_trades_are_wanted_for_a_while_and_longer_where_the_token_scores() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), world.create("B"))
    assert analysis.take_watch_changes() == [("A", START + WATCH_NS), ("B", START + WATCH_NS)]
    assert analysis.take_watch_changes() == []
    good = [d.decided_at_ns for d in fed(analysis, *rush(world, "A", from_s=250)) if d.score >= WATCH_SCORE_MIN]
    assert good
    [(mint, until_ns)] = analysis.take_watch_changes()  # one step, not one change a trade
    assert mint == "A"
    assert good[0] + WATCH_NS <= until_ns <= good[-1] + WATCH_NS
    assert analysis.watch_wanted() == {"A": until_ns, "B": START + WATCH_NS}


def test_a_watch_never_outlives_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    always = Scored(90, (), {"age_ms": 0, "market_cap_lamports": 0}, ())
    monkeypatch.setattr("analyze.analysis.ON_TRADE", {Strategy.MOMENTUM: lambda look: always})
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"))
    untils = []
    for minute in range(1, 60):
        fed(analysis, world.trade("A", "t", SOL // 100, START + minute * MINUTE_NS))
        untils += [until for _, until in analysis.take_watch_changes()]
    assert untils == sorted(set(untils))
    assert untils[-1] == START + TOKEN_LIFE_NS


def test_trades_after_the_watch_are_not_scored() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"))
    assert fed(analysis, *rush(world, "A", from_s=301)) == []
    assert analysis.counters[Strategy.MOMENTUM, Silence.WINDOW_OVER] == 12


# Bounds


def test_a_token_closes_at_its_age() -> None:
    world, analysis = World(), Analysis()
    fed(analysis, world.create("A"), world.create("B", START + TOKEN_LIFE_NS - 1))
    assert analysis.open_count == 2
    fed(analysis, world.create("C", START + TOKEN_LIFE_NS))
    assert analysis.open_count == 2
    assert {score.mint for score in analysis.take_scores()} == {"B", "C"}


def test_the_oldest_token_gives_way_and_is_no_longer_watched() -> None:
    world, analysis = World(), Analysis(open_tokens_max=3)
    fed(analysis, *(world.create(str(n), START + n) for n in range(5)))
    assert analysis.open_count == 3
    assert set(analysis.watch_wanted()) == {"2", "3", "4"}
    assert dict(analysis.take_watch_changes())["0"] <= START + 4
    assert {score.mint for score in analysis.take_scores()} == {"2", "3", "4"}


def test_changes_that_nobody_takes_are_bounded() -> None:
    world, analysis = World(), Analysis(open_tokens_max=5)
    for n in range(200):
        fed(analysis, world.create(str(n), START + n * MINUTE_NS))
    assert len(analysis.take_scores()) <= 5
    assert len(analysis.take_watch_changes()) <= 10


# Repetitions


def test_the_same_bytes_again_change_nothing_however_late() -> None:
    world, once, twice = World(), Analysis(), Analysis()
    events = [world.create("A"), *rush(world, "A"), world.create("B", START + 15 * SECOND_NS)]
    later = world.create("C", START + 3 * TOKEN_LIFE_NS)
    expected = fed(once, *events)
    assert fed(twice, *events, *events) == expected
    assert fed(twice, later, *events) == fed(once, later)
    assert twice.counters[EVENTS, REPEATED] == 2 * len(events)
    assert twice.open_count == once.open_count == 1


def test_an_event_heard_again_with_a_new_time_changes_nothing() -> None:
    world, once, twice = World(), Analysis(), Analysis()
    events: list[TokenEvent] = [world.create("A"), *rush(world, "A")]
    again = [msgspec.structs.replace(event, seen_at_ns=event.seen_at_ns + DUPLICATE_NS // 2) for event in events]
    assert fed(twice, *events, *again) == fed(once, *events)
    assert twice.take_scores() == once.take_scores()


def test_a_creation_heard_again_much_later_is_ignored_while_its_token_is_open() -> None:
    world, analysis = World(), Analysis()
    event = world.create("A")
    fed(analysis, event)
    late = msgspec.structs.replace(event, seen_at_ns=START + 2 * DUPLICATE_NS)
    assert fed(analysis, late) == []
    assert analysis.open_count == 1
    assert analysis.counters[Strategy.SNIPER, DECIDED] == 1


# Rebuilding


def history(seed: int, count: int) -> list[TokenEvent]:
    """Some hours of a market in a few hundred events: bursts of trades, calm, gaps, migrations before and after their
    creations, coins of every kind, events a little out of order, sent again, and heard again."""
    rng, world, events, mints, now_ns = random.Random(seed), World(), [], [], START
    while len(events) < count:
        now_ns += rng.choice((0, 1, 300_000_000, SECOND_NS, 5 * SECOND_NS, 4 * MINUTE_NS, 20 * MINUTE_NS))
        at_ns = now_ns - rng.choice((0, 0, 0, rng.randrange(2 * SECOND_NS)))
        roll = rng.randrange(100)
        if roll < 25 or not mints:
            mint = f"M{len(mints)}"
            kind = {"mayhem": True} if rng.random() < 0.15 else {}
            name, creator = f"N{rng.randrange(6)}", f"c{rng.randrange(6)}"
            created = world.create(mint, at_ns, rng.randrange(4 * SOL), name=name, creator=creator, **kind)
            if rng.random() < 0.1:
                events.append(world.migrate(mint, at_ns))
            mints.append(mint)
            events.append(created)
        elif roll < 60:
            mint = rng.choice(mints[-4:])
            selling = rng.choice((0.25, 0.25, 0.25, 0.95))
            for n in range(rng.randrange(1, 12)):
                side = Side.SELL if rng.random() < selling else Side.BUY
                amount = rng.randrange(500, 4_000) if side is Side.SELL else rng.randrange(SOL // 10, 2 * SOL)
                if rng.random() < 0.04:  # a whale comes, or all leave
                    amount = 9_000 if side is Side.SELL else 25 * SOL
                trader = rng.choice((f"t{n}", f"c{n % 6}"))
                events.append(world.trade(mint, trader, amount, at_ns + n * rng.choice((1, SECOND_NS)), side))
        elif roll < 64:
            events.append(world.migrate(rng.choice(mints), at_ns))
        elif roll < 68:
            events.append(world.gap(at_ns - MINUTE_NS, at_ns))
        elif roll < 84 and events:
            events.append(rng.choice(events))  # the same bytes, however old
        elif events:
            again = rng.choice(events[-20:])
            if at_ns - again.seen_at_ns <= DUPLICATE_NS and not isinstance(again, FeedGap):
                event = msgspec.structs.replace(again, seen_at_ns=max(at_ns, again.seen_at_ns))
                events.append(event)
    return events


def rebuilt(events: list[TokenEvent], cut: int, from_index: int, open_tokens_max: int) -> Analysis:
    analysis = Analysis(open_tokens_max)
    analysis.predictor = Doubling()
    fed(analysis, *events[from_index:cut])
    analysis.take_scores()
    analysis.take_watch_changes()
    return analysis


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=60, deadline=None)
def test_a_restart_anywhere_changes_no_decision_score_or_watch(seed: int, data: st.DataObject) -> None:
    events = history(seed, 300)
    open_tokens_max = data.draw(st.sampled_from([4, 50_000]), "open_tokens_max")
    cut = data.draw(st.integers(1, len(events)), "cut")
    clock = list(accumulate((event.seen_at_ns for event in events), max))
    horizon = bisect_left(clock, clock[cut - 1] - HORIZON_NS)
    # From the horizon, or from any time before it: events older than the horizon make no difference.
    from_index = data.draw(st.sampled_from([horizon, horizon // 2, 0]), "from_index")

    uninterrupted = rebuilt(events, cut, 0, open_tokens_max)
    restarted = rebuilt(events, cut, from_index, open_tokens_max)
    assert restarted.open_count == uninterrupted.open_count
    assert restarted.watch_wanted() == uninterrupted.watch_wanted()
    for event in events[cut:]:
        expected = [encode(decision) for decision in uninterrupted.feed(event)]
        assert [encode(decision) for decision in restarted.feed(event)] == expected
        assert restarted.take_scores() == uninterrupted.take_scores()
        assert restarted.take_watch_changes() == uninterrupted.take_watch_changes()


def test_the_histories_reach_what_a_rebuild_could_get_wrong() -> None:
    """Otherwise the property above would hold for nothing."""
    decided = {Origin.SNIPER: 0, Origin.MOMENTUM: 0, Origin.AI_PREDICTIONS: 0, Origin.RUG_ALARM: 0}
    kinds, repeated, hours = dict.fromkeys(Kind, 0), 0, 0
    for seed in range(20):
        events, analysis = history(seed, 300), Analysis()
        analysis.predictor = Doubling()
        for decision in fed(analysis, *events):
            decided[decision.strategy] = decided.get(decision.strategy, 0) + 1
        for kind in Kind:
            kinds[kind] += analysis.counters[Origin.RUG_ALARM, kind]
        repeated += analysis.counters[EVENTS, REPEATED]
        hours += (max(event.seen_at_ns for event in events) - START) // (60 * MINUTE_NS)
    assert min(decided.values()) > 20
    assert min(kinds.values()) > 5
    assert repeated > 100
    assert hours > 40


def test_a_rebuild_from_less_than_the_horizon_can_differ() -> None:
    """Why it is that long: a token that opened before is missing, and nothing of it is announced."""
    world = World()
    events, more = [world.create("A"), *rush(world, "A")], rush(world, "A", from_s=12, each=2 * SOL)
    whole, late = Analysis(), Analysis()
    fed(whole, *events)
    fed(late, *events[1:])
    assert fed(whole, *more) != [] == fed(late, *more)


def test_two_runs_over_the_same_events_are_equal_to_the_byte() -> None:
    events = history(11, 400)
    first, second = (b"\n".join(map(encode, fed(Analysis(), *events))) for _ in range(2))
    assert first == second
    assert first


@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
@settings(max_examples=60, deadline=None)
def test_the_parts_announce_together_what_one_analysis_of_all_announces(seed: int, parts: int) -> None:
    """Each is fed every creation and gap, of its own mints all else, and of other mints' trades the time."""
    events, whole = history(seed, 300), Analysis()
    analyses = [Analysis(mine=lambda mint, part=part: partition(mint, parts) == part) for part in range(parts)]
    for event in events:
        expected = [encode(decision) for decision in whole.feed(event)]
        announced: list[bytes] = []
        for part, analysis in enumerate(analyses):
            if isinstance(event, TokenTraded | TokenMigrated) and partition(event.mint, parts) != part:
                analysis.pass_over(event.seen_at_ns)
            else:
                announced += [encode(decision) for decision in analysis.feed(event)]
        assert announced == expected
    assert sum(analysis.open_count for analysis in analyses) == whole.open_count
    watched = [pair for analysis in analyses for pair in analysis.watch_wanted().items()]
    assert sorted(watched) == sorted(whole.watch_wanted().items())
    scores = [score for analysis in analyses for score in analysis.take_scores()]
    assert sorted(scores, key=repr) == sorted(whole.take_scores(), key=repr)
