"""analyze/analysis.py: a restart rebuilds it exactly, and its parts announce together what one of all announces."""

from bisect import bisect_left
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.alarms import Kind
from analyze.analysis import (
    EVENTS,
    HORIZON_NS,
    MINUTE_NS,
    REPEATED,
    Analysis,
)
from analyze.testing import SOL, START, Doubling, World, fed, history, rush
from schemas.codec import encode
from schemas.events import (
    Origin,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
)
from schemas.subjects import partition


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
