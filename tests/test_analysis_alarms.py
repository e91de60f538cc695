"""analyze/analysis.py: what it raises as rug alarms, of the same events that it scores."""

from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.alarms import LEVELS, Kind
from analyze.analysis import (
    ALARMED,
    Analysis,
)
from analyze.score import Silence
from analyze.testing import SOL, START, World, dump, fed, history, rush
from analyze.windows import SECOND_NS
from schemas.events import (
    Origin,
    Side,
    Strategy,
)


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
