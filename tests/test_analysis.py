"""analyze/analysis.py: one analysis for all users, which a repetition does not move."""

from typing import Any
from unittest.mock import ANY

import msgspec
import pytest

from analyze.analysis import (
    DECIDED,
    DUPLICATE_NS,
    EVENTS,
    MINUTE_NS,
    NO_NEWS,
    REPEATED,
    TOKEN_LIFE_NS,
    WATCH_NS,
    WATCH_SCORE_MIN,
    Analysis,
)
from analyze.score import Scored, Silence, risk_of
from analyze.strategies.predictions import DECISION_AGE_NS
from analyze.testing import SOL, START, Doubling, World, fed, rush
from analyze.windows import SECOND_NS
from schemas.events import (
    Origin,
    Quote,
    Side,
    Strategy,
    TokenEvent,
    decision_id,
)

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


# The model


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
