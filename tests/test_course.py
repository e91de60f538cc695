"""A user's bot over time, as its caller drives it: every exit from entry to landing."""

from typing import Any

import pytest

from bots.mandate import Mandate
from bots.paper import LANDING_NS_DEFAULT
from bots.testing_course import (
    CLOSING,
    FIXED,
    MS,
    NOW,
    OPENED,
    PROGRESSIVE,
    SECOND,
    SOL,
    STEPS,
    TERMS,
    Alarm,
    Course,
    T,
    created,
    grown,
    holding,
    mandate,
    migrated,
    others,
    signal,
    traded,
)
from schemas.config import ExitRule, Fixed, TimeExit, TrailingStop
from schemas.curve import FRESH, Curve
from schemas.events import (
    FeedGap,
    Intent,
    Reason,
    Side,
)


@pytest.mark.parametrize(
    ("rule", "happens", "reason", "decided_at"),
    [
        (FIXED, [traded(grown(10 * SOL), T)], Reason.TAKE_PROFIT, T),
        (STEPS, [traded(grown(10 * SOL), T)], Reason.TAKE_PROFIT, T),
        (
            TrailingStop(arm_bps=3_000, trail_bps=2_500),
            [traded(grown(20 * SOL), T - 1), traded(grown(12 * SOL), T)],
            Reason.TAKE_PROFIT,
            T,
        ),
        (TimeExit(after_ns=60 * SECOND), [], Reason.TIME_EXIT, OPENED + 60 * SECOND),
        (PROGRESSIVE, [traded(grown(80 * SOL), T - 1), migrated(T)], Reason.MIGRATED, T),
        # the others' sales leave the curve emptier than our purchase found it
        (FIXED, [traded(Curve(23_000_000_000, 1_399_565_217_391_304, 10**15), T)], Reason.STOP_LOSS, T),
        (Fixed(gain_bps=10**7), ["others"], Reason.SILENT_PRICE, OPENED + 300 * SECOND),
        (Fixed(gain_bps=10**7), [traded(grown(SOL), T), "others"], Reason.SILENT_PRICE, T + 300 * SECOND),
        (FIXED, [Alarm("M", T)], Reason.RUG_ALARM, T),
        (FIXED, [CLOSING], Reason.BOT_STOPPED, T),
    ],
)
def test_every_exit_from_its_cause_to_its_landing(
    rule: ExitRule, happens: list[Any], reason: Reason, decided_at: int
) -> None:
    course = holding(mandate(rule))
    for one in happens:
        if one == "others":
            others(course, course.now + SECOND, OPENED + 320 * SECOND)
        elif isinstance(one, Alarm):
            course.alarm(one)
        elif isinstance(one, Mandate):
            course.configure(one, T)
        else:
            course.event(one)
    course.until(OPENED + 330 * SECOND)
    intent = next(e for line in course.ledger for e in line.entries if isinstance(e, Intent) and e.side is Side.SELL)
    sale = course.fills()[1]
    # Of silence the feed itself must have been heard that long: it is asked again a second later.
    assert 0 <= intent.at_ns - decided_at <= (SECOND if reason is Reason.SILENT_PRICE else 0)
    assert (sale.order_id, sale.reason, sale.at_ns) == (intent.id, reason, intent.at_ns + LANDING_NS_DEFAULT)
    assert intent.reason is reason


def test_a_position_is_held_no_longer_than_its_longest_time() -> None:
    course = holding(mandate(Fixed(gain_bps=10**7), silent_exit_ns=0, max_hold_ns=90 * SECOND))
    course.until(OPENED + 90 * SECOND)
    assert len(course.fills()) == 1
    course.until(OPENED + 91 * SECOND)
    assert course.fills()[1].reason is Reason.MAX_HOLD
    assert course.fills()[1].at_ns == OPENED + 90 * SECOND + LANDING_NS_DEFAULT


def test_a_silent_feed_is_no_silent_coin() -> None:
    course = holding(mandate(FIXED))
    course.until(OPENED + 2_000 * SECOND)
    assert len(course.fills()) == 1
    back = course.now
    course.event(FeedGap(id="g", feed="f", reason="r", from_at_ns=OPENED, seen_at_ns=back))
    others(course, back + SECOND, back + 299 * SECOND)
    assert len(course.fills()) == 1
    others(course, back + 300 * SECOND, back + 303 * SECOND)
    course.until(back + 304 * SECOND)
    assert [fill.reason for fill in course.fills()] == [Reason.SIGNAL, Reason.SILENT_PRICE]


@pytest.mark.parametrize(
    ("minute", "second", "left_percent"),
    # 50 percent at once, then 5 of the original every 20 s: three steps a minute, nothing left after 200 s
    [
        (0, 0, 100), (0, 1, 50), (0, 20, 50), (0, 21, 45), (0, 41, 40), (1, 0, 40), (1, 1, 35), (1, 21, 30),
        (1, 41, 25), (2, 0, 25), (2, 1, 20), (2, 21, 15), (2, 41, 10), (3, 0, 10), (3, 1, 5), (3, 20, 5), (3, 21, 0),
        (10, 0, 0),
    ],
)  # fmt: skip
def test_after_migration_half_goes_at_once_and_the_rest_in_steps_of_five_percent(
    minute: int, second: int, left_percent: int
) -> None:
    course = holding(mandate(PROGRESSIVE))
    original = course.account.positions["M"].original_tokens
    course.event(traded(grown(80 * SOL), T))
    course.until(T + 20 * SECOND)
    assert len(course.fills()) == 1  # on the curve it waits, whatever the gain
    moved = T + 30 * SECOND
    course.event(migrated(moved))
    course.until(moved + (60 * minute + second) * SECOND)
    position = course.account.positions.get("M")
    left = 0 if position is None else position.tokens
    # Each step is rounded down to a base unit; the last takes what that left over.
    assert 0 <= left - original * left_percent // 100 <= 11


def test_the_steps_keep_their_distance_and_their_size() -> None:
    course = holding(mandate(PROGRESSIVE))
    original = course.account.positions["M"].original_tokens
    course.event(migrated(T))
    course.until(T + 600 * SECOND)
    sales = course.fills()[1:]
    assert [sale.at_ns - T - LANDING_NS_DEFAULT for sale in sales] == [20 * n * SECOND for n in range(11)]
    assert [sale.tokens for sale in sales[:-1]] == [original // 2] + [original * 5 // 100] * 9
    assert {sale.reason for sale in sales} == {Reason.MIGRATED}
    assert course.account.positions == {}


def test_a_coin_that_rugs_before_the_purchase_lands_is_sold_right_after() -> None:
    course = Course(mandate(FIXED))
    course.event(created(NOW))
    course.signal(signal(1, FRESH, NOW), NOW)
    course.alarm(Alarm("M", NOW + 100 * MS))
    course.until(OPENED + SECOND)
    bought, sold = course.fills()
    assert (bought.at_ns, sold.reason, sold.at_ns) == (OPENED, Reason.RUG_ALARM, OPENED + LANDING_NS_DEFAULT)


def test_a_stop_that_closes_also_sells_what_lands_after_it() -> None:
    course = Course(mandate(FIXED))
    course.event(created(NOW))
    course.signal(signal(1, FRESH, NOW), NOW)
    course.configure(Mandate(terms=TERMS, running=False, closing_at_ns=NOW + 100 * MS), NOW + 100 * MS)
    course.until(OPENED + SECOND)
    assert [fill.reason for fill in course.fills()] == [Reason.SIGNAL, Reason.BOT_STOPPED]
    assert course.account.positions == {}


def test_a_stop_that_keeps_lets_positions_end_by_their_rules() -> None:
    course = holding(mandate(FIXED))
    course.configure(Mandate(terms=mandate(FIXED).terms, running=False), T)
    course.until(T + SECOND)
    assert len(course.fills()) == 1
    course.event(traded(grown(10 * SOL), T + 2 * SECOND))
    course.until(T + 3 * SECOND)
    assert course.fills()[1].reason is Reason.TAKE_PROFIT
