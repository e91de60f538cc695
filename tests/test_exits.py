"""bots/exits.py: each rule at its edge, and deadlines that agree with decisions."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.exits import RETRIES_AT_ONCE_MAX, RETRY_NS, RETRY_NS_MAX, Exit, decide, next_deadline_ns
from bots.mandate import Mandate
from bots.paper import network_fee_lamports
from bots.positions import Position
from bots.prices import NOTHING_HEARD, Feed, Price
from schemas.config import (
    BotConfig,
    ExitRule,
    Fixed,
    Ladder,
    Level,
    Progressive,
    Terms,
    TimeExit,
    TrailingStop,
    terms,
)
from schemas.curve import FRESH
from schemas.events import Reason, Strategy

SECOND = 1_000_000_000
OPENED = 1_000 * SECOND
SOON = OPENED + SECOND
ORDERED = OPENED - 600_000_000
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


SOL = 1_000_000_000
DEFAULTS = terms(BotConfig(strategy=Strategy.SNIPER))  # stop at -40 percent, an hour at most, silence of 300 s
FEE = network_fee_lamports(DEFAULTS)


def mandate(rule: ExitRule = FIXED, *, closing_at_ns: int | None = None, **changes: Any) -> Mandate:
    rules: Terms = msgspec.structs.replace(DEFAULTS, take_profit=rule, **changes)
    return Mandate(terms=rules, running=closing_at_ns is None, closing_at_ns=closing_at_ns)


def position(tokens: int = 1_000_000, **changes: Any) -> Position:
    """One that cost 10,000 millionths of a thousand SOL: tables count in them."""
    fields: dict[str, Any] = {
        "mint": "M", "order_id": "o", "signal_id": "s", "tokens": tokens, "original_tokens": 1_000_000,
        "cost_lamports": 10 * SOL, "open_cost_lamports": 10 * SOL * tokens // 1_000_000, "opened_at_ns": OPENED,
        "ordered_at_ns": ORDERED,
    }  # fmt: skip
    return Position(**{**fields, **changes})


def market(seen_at_ns: int = OPENED, **changes: Any) -> Price:
    return Price(mint="M", state=FRESH, seen_at_ns=seen_at_ns, **changes)


def decided(
    held: Position,
    orders: Mandate,
    value: int | None,
    now: int,
    price: Price | None = None,
    feed: Feed = NOTHING_HEARD,
) -> Exit | None:
    """value: in millionths of a thousand SOL, all fees taken off; cost is 10,000."""
    proceeds = None if value is None else value * SOL // 1_000 + FEE
    return decide(held, orders, price or market(), proceeds, feed, now)


def whole(reason: Reason, tokens: int = 1_000_000) -> Exit:
    return Exit(tokens, reason, 0, patient=False)


def gain(tokens: int, remaining: int = 0) -> Exit:
    return Exit(tokens, Reason.TAKE_PROFIT, remaining, patient=True)


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
        (FIXED, position(), 15_000, SOON, gain(1_000_000)),
        # the ladder
        (LADDER, position(), 14_999, SOON, None),
        (LADDER, position(), 15_000, SOON, gain(400_000, 600_000)),
        (LADDER, position(), 20_000, SOON, gain(700_000, 300_000)),  # two levels in one jump
        (LADDER, position(600_000), 9_000, SOON, None),  # the first level again, its share is sold
        (LADDER, position(600_000), 12_000, SOON, gain(300_000, 300_000)),
        (LADDER, position(300_000), 9_000, SOON, gain(200_000, 100_000)),
        (LADDER, position(100_000), 90_000, SOON, None),  # the moon bag is kept,
        (LADDER, position(100_000), 600, SOON, whole(Reason.STOP_LOSS, 100_000)),  # but not below the stop
        # the trailing stop: armed at +30 percent, 25 percent below the highest
        (TRAILING, position(peak_lamports=13 * SOL + FEE - 1), 9_000, SOON, None),  # never armed
        (TRAILING, position(peak_lamports=13 * SOL + FEE), 9_750, SOON, None),  # the fee's share keeps it above
        (TRAILING, position(peak_lamports=13 * SOL + FEE), 9_749, SOON, whole(Reason.TAKE_PROFIT)),
        (TRAILING, position(peak_lamports=40 * SOL), 29_999, SOON, whole(Reason.TAKE_PROFIT)),
        (TRAILING, position(), 50_000, SOON, None),  # the highest yet
    ],
)
def test_a_rule_sells_at_its_edge_and_not_before(
    rule: ExitRule, held: Position, value: int | None, now: int, expected: Exit | None
) -> None:
    assert decided(held, mandate(rule), value, now) == expected


def test_a_stop_of_a_hundred_percent_never_stops() -> None:
    assert decided(position(), mandate(stop_loss_bps=10_000), 0, SOON) is None


def test_a_ladder_that_adds_up_to_all_leaves_nothing() -> None:
    rule = Ladder(levels=(Level(gain_bps=1_000, sell_bps=3_333), Level(gain_bps=2_000, sell_bps=6_667)))
    held = position(tokens=7, original_tokens=7, open_cost_lamports=10 * SOL)
    assert decided(held, mandate(rule), 11_000, SOON) == gain(2, 5)
    held.tokens, held.open_cost_lamports = 5, 7_143 * SOL // 1_000
    assert decided(held, mandate(rule), 9_000, SOON) == gain(5)


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
    assert decided(held, mandate(rule), 11_000, now, market(migrated_at_ns=migrated_at)) == expected


@given(st.integers(0, 100), st.integers(1, 100), st.integers(1, 10**15))
def test_stepwise_selling_ends_with_nothing_left_and_never_sells_too_much(
    initial: int, step: int, original: int
) -> None:
    rule = Progressive(initial_bps=initial * 100, step_bps=step * 100, interval_ns=SECOND)
    held = position(tokens=original, original_tokens=original, open_cost_lamports=10 * SOL)
    orders, price = mandate(rule, max_hold_ns=10**18, silent_exit_ns=0), market(migrated_at_ns=MIGRATED)
    now, sales = OPENED, 0
    while held.tokens:
        now = next_deadline_ns(held, orders, price, NOTHING_HEARD, now) or 0
        exit_ = decided(held, orders, 11_000, now, price)
        assert exit_ is not None
        assert 0 < exit_.tokens <= held.tokens
        assert exit_.remaining == held.tokens - exit_.tokens
        held.tokens, held.migration_exit_at_ns = exit_.remaining, now
        sales += 1
    if original >= 2_000_000:
        # As many sales as the shares say: rounding adds none. (Of less than two tokens it may.)
        assert sales == (initial > 0) + -(-(100 - initial) // step)


@pytest.mark.parametrize(
    ("orders", "held", "price", "feed", "reason"),
    [
        # stopped, and nothing is to be kept: before everything else
        (mandate(closing_at_ns=SOON), position(), market(), NOTHING_HEARD, Reason.BOT_STOPPED),
        (mandate(closing_at_ns=SOON), position(), market(alarmed_at_ns=SOON), NOTHING_HEARD, Reason.BOT_STOPPED),
        # a rug alarm, from the moment at which the purchase was decided
        (mandate(), position(), market(alarmed_at_ns=SOON), NOTHING_HEARD, Reason.RUG_ALARM),
        (mandate(), position(), market(alarmed_at_ns=ORDERED), NOTHING_HEARD, Reason.RUG_ALARM),
        (mandate(), position(), market(alarmed_at_ns=ORDERED - 1), NOTHING_HEARD, None),  # bought all the same
        (mandate(exit_on_rug=False), position(), market(alarmed_at_ns=SOON), NOTHING_HEARD, None),
        # silence: 300 s of a feed that was heard, since the purchase, the last price and the last gap
        (mandate(), position(), market(), Feed(heard_at_ns=OPENED + 300 * SECOND), Reason.SILENT_PRICE),
        (mandate(), position(), market(), Feed(heard_at_ns=OPENED + 300 * SECOND - 1), None),
        (mandate(), position(), market(SOON), Feed(heard_at_ns=OPENED + 300 * SECOND), None),
        (mandate(), position(), market(SOON), Feed(heard_at_ns=SOON + 300 * SECOND), Reason.SILENT_PRICE),
        (mandate(), position(), market(), Feed(since_at_ns=SOON, heard_at_ns=OPENED + 300 * SECOND), None),
        (mandate(), position(), market(), NOTHING_HEARD, None),  # the feed itself is silent
        (mandate(silent_exit_ns=0), position(), market(), Feed(heard_at_ns=OPENED + 3_000 * SECOND), None),
    ],
)
def test_all_goes_when_the_user_the_coin_or_the_feed_says_so(
    orders: Mandate, held: Position, price: Price, feed: Feed, reason: Reason | None
) -> None:
    expected = None if reason is None else whole(reason)
    assert decided(held, orders, 10_000, SOON + 300 * SECOND, price, feed) == expected


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        # what holds at the same time, and which of the two is told
        ({"value": 6_000}, {"now": OPENED + 3_600 * SECOND}, Reason.STOP_LOSS),
        ({"price": market(alarmed_at_ns=SOON)}, {"value": 6_000}, Reason.RUG_ALARM),
        ({"now": OPENED + 3_600 * SECOND}, {"value": 20_000}, Reason.MAX_HOLD),
        ({"feed": Feed(heard_at_ns=OPENED + 300 * SECOND)}, {"value": 20_000}, Reason.SILENT_PRICE),
    ],
)
def test_of_two_reasons_the_graver_is_told(first: dict[str, Any], second: dict[str, Any], reason: Reason) -> None:
    both = {"value": 10_000, "now": SOON, **first, **second}
    assert decided(position(), mandate(), **both) == whole(reason)


@pytest.mark.parametrize(
    "orders", [mandate(), mandate(TIME), mandate(closing_at_ns=SOON), mandate(PROGRESSIVE)]
)  # fmt: skip
def test_nothing_more_is_sold_while_an_order_is_under_way(orders: Mandate) -> None:
    held = position(selling="o:exit1")
    price = market(SOON, migrated_at_ns=SOON, alarmed_at_ns=SOON)
    assert decided(held, orders, 1, SOON + 9_000 * SECOND, price) is None
    assert next_deadline_ns(held, orders, price, NOTHING_HEARD, SOON) is None


REFUSED = OPENED + 10 * SECOND


@pytest.mark.parametrize(
    ("refused", "price_at", "now", "sold"),
    [
        (1, OPENED, REFUSED + RETRY_NS - 1, False),
        (1, OPENED, REFUSED + RETRY_NS, True),
        (1, REFUSED, REFUSED + 1, False),  # the price that refused it
        (1, REFUSED + 1, REFUSED + 1, True),  # a newer one
        (3, OPENED, REFUSED + 4 * RETRY_NS - 1, False),
        (3, OPENED, REFUSED + 4 * RETRY_NS, True),
        (RETRIES_AT_ONCE_MAX, REFUSED + 1, REFUSED + 1, True),
        (RETRIES_AT_ONCE_MAX + 1, REFUSED + 1, REFUSED + 1, False),  # prices alone do not fill the ledger
        (RETRIES_AT_ONCE_MAX + 1, REFUSED + 1, REFUSED + 32 * RETRY_NS, True),
        (1_000, REFUSED + 1, REFUSED + RETRY_NS_MAX - 1, False),
        (1_000, REFUSED + 1, REFUSED + RETRY_NS_MAX, True),
    ],
)
def test_a_refused_sale_waits_for_a_newer_price_or_for_its_time(
    refused: int, price_at: int, now: int, sold: bool
) -> None:
    held = position(refused=refused, refused_at_ns=REFUSED)
    exit_ = decided(held, mandate(), 5_000, now, market(price_at))
    assert exit_ == (whole(Reason.STOP_LOSS) if sold else None)


@pytest.mark.parametrize(
    ("orders", "held", "price", "deadline"),
    [
        (mandate(), position(), market(), OPENED + 300 * SECOND),  # silence
        (mandate(), position(), market(SOON), SOON + 300 * SECOND),
        (mandate(), position(), None, OPENED + 300 * SECOND),
        (mandate(silent_exit_ns=0), position(), market(), OPENED + 3_600 * SECOND),
        (mandate(TIME, silent_exit_ns=0), position(), market(), OPENED + 600 * SECOND),
        (mandate(TIME, silent_exit_ns=0, max_hold_ns=SECOND), position(), market(), OPENED + SECOND),
        (mandate(PROGRESSIVE), position(), market(migrated_at_ns=MIGRATED), MIGRATED),
        (mandate(PROGRESSIVE), position(), market(migrated_at_ns=OPENED - 5), OPENED + RETRY_NS),  # overdue
        (
            mandate(PROGRESSIVE),
            position(migration_exit_at_ns=MIGRATED),
            market(migrated_at_ns=MIGRATED),
            MIGRATED + 20 * SECOND,
        ),
        (mandate(PROGRESSIVE), position(migration_exit_at_ns=MIGRATED), None, MIGRATED + 20 * SECOND),
        (mandate(closing_at_ns=SOON), position(), market(), SOON),
        (mandate(), position(), market(alarmed_at_ns=SOON), SOON),
        (mandate(exit_on_rug=False), position(), market(alarmed_at_ns=SOON), OPENED + 300 * SECOND),
        (mandate(), position(refused=2, refused_at_ns=SOON), market(), SOON + 2 * RETRY_NS),
    ],
)
def test_the_deadline_is_when_time_alone_may_sell(
    orders: Mandate, held: Position, price: Price | None, deadline: int
) -> None:
    assert next_deadline_ns(held, orders, price, NOTHING_HEARD, OPENED) == deadline


@pytest.mark.parametrize(
    ("orders", "price"),
    [
        (mandate(silent_exit_ns=0), market()),
        (mandate(TIME, silent_exit_ns=0), market()),
        (mandate(PROGRESSIVE), market(migrated_at_ns=MIGRATED)),
        (mandate(), market(SOON)),
    ],
)
def test_the_deadline_agrees_with_the_decision(orders: Mandate, price: Price) -> None:
    deadline = next_deadline_ns(position(), orders, price, NOTHING_HEARD, OPENED)
    assert deadline is not None
    assert decided(position(), orders, 10_000, deadline - 1, price, Feed(heard_at_ns=deadline - 1)) is None
    assert decided(position(), orders, 10_000, deadline, price, Feed(heard_at_ns=deadline)) is not None


def test_what_is_overdue_is_due_again_at_times_that_do_not_hang_on_who_looked() -> None:
    orders, overdue = mandate(silent_exit_ns=0), OPENED + 3_600 * SECOND
    for after in (overdue, overdue + 1, overdue + RETRY_NS - 1):
        assert next_deadline_ns(position(), orders, market(), NOTHING_HEARD, after) == overdue + RETRY_NS
