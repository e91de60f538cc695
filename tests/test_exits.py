"""bots/exits.py: each rule at its edge, and deadlines that agree with decisions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.exits import Exit, decide, next_deadline_ns
from bots.positions import Position
from schemas.config import ExitRule, Fixed, Ladder, Level, Progressive, Terms, TimeExit, TrailingStop
from schemas.events import Reason, Strategy

SECOND = 1_000_000_000
OPENED = 1_000 * SECOND
SOON = OPENED + SECOND
FIXED = Fixed(gain_bps=5_000)
LADDER = Ladder(
    levels=(
        Level(gain_bps=5_000, sell_bps=4_000),
        Level(gain_bps=10_000, sell_bps=3_000),
        Level(gain_bps=20_000, sell_bps=2_000),
    )
)
TRAILING = TrailingStop(arm_bps=3_000, trail_bps=2_500)
PROGRESSIVE = Progressive(initial_bps=5_000, step_bps=500, interval_ns=20 * SECOND)
TIME = TimeExit(after_ns=600 * SECOND)


def terms(rule: ExitRule, **changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "strategy": Strategy.SNIPER, "threshold": 50, "take_profit": rule, "budget_lamports": 1, "buy_lamports": 1,
        "max_open_positions": 5, "max_entries_per_hour": 10, "stop_loss_bps": 4_000, "max_hold_ns": 3_600 * SECOND,
        "daily_loss_limit_lamports": 1, "slippage_bps": 0,
    }  # fmt: skip
    return Terms(**{**fields, **changes})


def position(tokens: int = 1_000_000, **changes: Any) -> Position:
    fields: dict[str, Any] = {
        "mint": "M", "order_id": "o", "signal_id": "s", "tokens": tokens, "original_tokens": 1_000_000,
        "cost_lamports": 10_000, "open_cost_lamports": 10_000 * tokens // 1_000_000, "opened_at_ns": OPENED,
    }  # fmt: skip
    return Position(**{**fields, **changes})


def whole(reason: Reason, tokens: int = 1_000_000) -> Exit:
    return Exit(tokens, reason, 0)


@pytest.mark.parametrize(
    ("rule", "held", "value", "now", "expected"),
    [
        # the stop: 40 percent below cost
        (FIXED, position(), 6_001, SOON, None),
        (FIXED, position(), 6_000, SOON, whole(Reason.STOP_LOSS)),
        (FIXED, position(), 0, SOON, whole(Reason.STOP_LOSS)),
        (FIXED, position(500_000), 3_001, SOON, None),  # half is held: half the cost counts
        (FIXED, position(500_000), 3_000, SOON, whole(Reason.STOP_LOSS, 500_000)),
        (FIXED, position(), None, SOON, None),  # no price, no sale
        # time, for every rule
        (FIXED, position(), 10_000, OPENED + 3_600 * SECOND - 1, None),
        (FIXED, position(), 10_000, OPENED + 3_600 * SECOND, whole(Reason.MAX_HOLD)),
        (TIME, position(), 10_000, OPENED + 600 * SECOND - 1, None),
        (TIME, position(), 10_000, OPENED + 600 * SECOND, whole(Reason.TIME_EXIT)),
        (TIME, position(), 90_000, SOON, None),  # a gain is no reason for it
        # a fixed gain of 50 percent
        (FIXED, position(), 14_999, SOON, None),
        (FIXED, position(), 15_000, SOON, whole(Reason.TAKE_PROFIT)),
        # the ladder
        (LADDER, position(), 14_999, SOON, None),
        (LADDER, position(), 15_000, SOON, Exit(400_000, Reason.TAKE_PROFIT, 600_000)),
        (LADDER, position(), 20_000, SOON, Exit(700_000, Reason.TAKE_PROFIT, 300_000)),  # two levels in one jump
        (LADDER, position(600_000), 9_000, SOON, None),  # the first level again, its share is sold
        (LADDER, position(600_000), 12_000, SOON, Exit(300_000, Reason.TAKE_PROFIT, 300_000)),
        (LADDER, position(300_000), 9_000, SOON, Exit(200_000, Reason.TAKE_PROFIT, 100_000)),
        (LADDER, position(100_000), 90_000, SOON, None),  # the moon bag is kept,
        (LADDER, position(100_000), 600, SOON, whole(Reason.STOP_LOSS, 100_000)),  # but not below the stop
        # the trailing stop: armed at +30 percent, 25 percent below the highest
        (TRAILING, position(peak_lamports=12_999), 9_000, SOON, None),  # never armed
        (TRAILING, position(peak_lamports=13_000), 9_751, SOON, None),
        (TRAILING, position(peak_lamports=13_000), 9_750, SOON, whole(Reason.TAKE_PROFIT)),
        (TRAILING, position(peak_lamports=40_000), 30_000, SOON, whole(Reason.TAKE_PROFIT)),
        (TRAILING, position(), 50_000, SOON, None),  # the highest yet
    ],
)
def test_a_rule_sells_at_its_edge_and_not_before(
    rule: ExitRule, held: Position, value: int | None, now: int, expected: Exit | None
) -> None:
    assert decide(held, terms(rule), value, None, now) == expected


def test_a_stop_of_a_hundred_percent_never_stops() -> None:
    assert decide(position(), terms(FIXED, stop_loss_bps=10_000), 0, None, SOON) is None


def test_a_ladder_that_adds_up_to_all_leaves_nothing() -> None:
    rule = Ladder(levels=(Level(gain_bps=1_000, sell_bps=3_333), Level(gain_bps=2_000, sell_bps=6_667)))
    held = position(tokens=7, original_tokens=7, open_cost_lamports=10_000)
    first = decide(held, terms(rule), 11_000, None, SOON)
    assert first == Exit(2, Reason.TAKE_PROFIT, 5)
    held.tokens, held.open_cost_lamports = 5, 7_143
    assert decide(held, terms(rule), 9_000, None, SOON) == Exit(5, Reason.TAKE_PROFIT, 0)


MIGRATED = OPENED + 60 * SECOND


@pytest.mark.parametrize(
    ("rule", "held", "migrated_at", "now", "expected"),
    [
        (PROGRESSIVE, position(), None, SOON, None),  # on the curve it waits
        (PROGRESSIVE, position(), MIGRATED, MIGRATED, Exit(500_000, Reason.MIGRATED, 500_000)),
        (PROGRESSIVE, position(), MIGRATED, MIGRATED + 90 * SECOND, Exit(500_000, Reason.MIGRATED, 500_000)),
        (PROGRESSIVE, position(500_000, migration_exit_at_ns=MIGRATED), MIGRATED, MIGRATED + 20 * SECOND - 1, None),
        (
            PROGRESSIVE,
            position(500_000, migration_exit_at_ns=MIGRATED),
            MIGRATED,
            MIGRATED + 20 * SECOND,
            Exit(50_000, Reason.MIGRATED, 450_000),
        ),
        # what rounding left over goes with the last step
        (
            PROGRESSIVE,
            position(50_099, migration_exit_at_ns=MIGRATED),
            MIGRATED,
            MIGRATED + 20 * SECOND,
            whole(Reason.MIGRATED, 50_099),
        ),
        # less than a step is left
        (
            PROGRESSIVE,
            position(20_000, migration_exit_at_ns=MIGRATED),
            MIGRATED,
            MIGRATED + 20 * SECOND,
            whole(Reason.MIGRATED, 20_000),
        ),
        # nothing at once: the first step comes an interval later
        (Progressive(initial_bps=0, step_bps=500, interval_ns=SECOND), position(), MIGRATED, MIGRATED, None),
        (
            Progressive(initial_bps=0, step_bps=500, interval_ns=SECOND),
            position(),
            MIGRATED,
            MIGRATED + SECOND,
            Exit(50_000, Reason.MIGRATED, 950_000),
        ),
        (Progressive(initial_bps=10_000, step_bps=500, interval_ns=SECOND), position(), MIGRATED, MIGRATED,
         whole(Reason.MIGRATED)),
    ],
)  # fmt: skip
def test_after_migration_it_sells_in_steps(
    rule: ExitRule, held: Position, migrated_at: int | None, now: int, expected: Exit | None
) -> None:
    assert decide(held, terms(rule), 11_000, migrated_at, now) == expected


@given(st.integers(0, 100), st.integers(1, 100), st.integers(1, 10**15))
def test_stepwise_selling_ends_with_nothing_left_and_never_sells_too_much(
    initial: int, step: int, original: int
) -> None:
    rule = Progressive(initial_bps=initial * 100, step_bps=step * 100, interval_ns=SECOND)
    held = position(tokens=original, original_tokens=original, open_cost_lamports=10_000)
    now, sales = MIGRATED, 0
    while held.tokens:
        now = max(now, next_deadline_ns(held, terms(rule, max_hold_ns=10**18), MIGRATED))
        exit_ = decide(held, terms(rule, max_hold_ns=10**18), 10_000, MIGRATED, now)
        assert exit_ is not None
        assert 0 < exit_.tokens <= held.tokens
        assert exit_.remaining == held.tokens - exit_.tokens
        held.tokens, held.migration_exit_at_ns = exit_.remaining, now
        sales += 1
    if original >= 2_000_000:
        # As many sales as the shares say: rounding adds none. (Of less than two tokens it may.)
        assert sales == (initial > 0) + -(-(100 - initial) // step)


@pytest.mark.parametrize(
    ("rule", "held", "migrated_at", "deadline"),
    [
        (FIXED, position(), None, OPENED + 3_600 * SECOND),
        (LADDER, position(), MIGRATED, OPENED + 3_600 * SECOND),
        (TIME, position(), None, OPENED + 600 * SECOND),
        (TimeExit(after_ns=7_200 * SECOND), position(), None, OPENED + 3_600 * SECOND),  # max_hold comes first
        (PROGRESSIVE, position(), None, OPENED + 3_600 * SECOND),
        (PROGRESSIVE, position(), MIGRATED, MIGRATED),
        (PROGRESSIVE, position(), OPENED - 5, OPENED),  # bought after its migration
        (PROGRESSIVE, position(migration_exit_at_ns=MIGRATED), MIGRATED, MIGRATED + 20 * SECOND),
        (PROGRESSIVE, position(migration_exit_at_ns=MIGRATED), None, MIGRATED + 20 * SECOND),
    ],
)
def test_the_deadline_is_when_time_alone_sells(
    rule: ExitRule, held: Position, migrated_at: int | None, deadline: int
) -> None:
    assert next_deadline_ns(held, terms(rule), migrated_at) == deadline
    assert decide(held, terms(rule), 10_000, migrated_at, deadline) is not None
    assert decide(held, terms(rule), 10_000, migrated_at, deadline - 1) is None
