"""bots/bot.py: signals become orders or reasons, orders land at the market they meet, exits follow their rules."""

from typing import Any

import msgspec
import pytest

from bots import bot
from bots.mandate import Mandate, stopped
from bots.paper import LANDING_NS_DEFAULT, PRICE_AGE_NS_MAX, network_fee_lamports
from bots.positions import Account, take
from bots.prices import Price, of_market
from schemas import amm, curve
from schemas.config import BotConfig, ExitRule, Fixed, Ladder, Level, TimeExit, TrailingStop, terms
from schemas.curve import FRESH, Curve
from schemas.events import Entry, Fill, Intent, Market, Origin, Reason, Refusal, RiskLevel, Side, Signal, Strategy
from schemas.money import BPS, ceil_div

SECOND = 1_000_000_000
NOW = 1_750_000_000 * SECOND
LANDED = NOW + LANDING_NS_DEFAULT
SOL = 1_000_000_000

# Defaults: buys 0.05 SOL, stop at -40 percent, slippage of 10 percent, priority fee of 0.0005 SOL.
TERMS = msgspec.structs.replace(terms(BotConfig(strategy=Strategy.SNIPER)), take_profit=Fixed(gain_bps=5_000))
RUNNING = Mandate(terms=TERMS, running=True)
FEE = network_fee_lamports(TERMS)


def running(**changes: Any) -> Mandate:
    return Mandate(terms=msgspec.structs.replace(TERMS, **changes), running=True)


def market(state: Curve, at_ns: int = NOW) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def signal(number: int = 1, state: Curve | None = FRESH, at_ns: int = NOW, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "id": f"s{number}", "user": "u", "decision_id": "d", "strategy": Origin.SNIPER, "side": Side.BUY,
        "mint": "M", "creator": "somebody", "score": 90, "risk": RiskLevel.LOW, "reasons": (),
        "arithmetic_known": True, "market": None if state is None else market(state, at_ns), "config_revision": 1,
        "decided_at_ns": at_ns, "expires_at_ns": at_ns + 10 * SECOND,
    }  # fmt: skip
    return Signal(**{**fields, **changes})


def grown(lamports: int, at_ns: int = NOW, mint: str = "M") -> Price:
    """The price after others put this much into a fresh curve."""
    return of_market(mint, market(curve.quote_buy_sol(FRESH, lamports).after, at_ns))


def pool(at_ns: int = NOW, state: amm.Pool | None = amm.AT_MIGRATION) -> Price:
    return Price(mint="M", state=state, seen_at_ns=at_ns, pool="pump-amm", migrated_at_ns=at_ns)


def ordered(account: Account, entries: list[Entry]) -> Intent:
    """The one order that was decided, taken in."""
    (intent,) = entries
    assert isinstance(intent, Intent)
    take(account, entries)
    return intent


def landed(account: Account, intent: Intent, price: Price | None, at_ns: int, mandate: Mandate = RUNNING) -> Entry:
    outcome = bot.land(account, mandate, intent, price, at_ns)
    take(account, [outcome])
    return outcome


def holding(mandate: Mandate = RUNNING) -> Account:
    account = Account()
    intent = ordered(account, bot.on_signal(account, mandate, signal(), None, NOW))
    assert isinstance(landed(account, intent, of_market("M", market(FRESH)), LANDED, mandate), Fill)
    return account


def by(rule: ExitRule) -> Mandate:
    return running(take_profit=rule)


# Entries


def test_a_signal_becomes_an_order_and_lands_later_at_the_market_of_then() -> None:
    account = Account()
    intent = ordered(account, bot.on_signal(account, RUNNING, signal(), None, NOW + 5))
    assert (intent.id, intent.signal_id, intent.side, intent.at_ns) == ("s1:buy", "s1", Side.BUY, NOW + 5)
    assert (account.positions, list(account.pending), account.paid_lamports) == ({}, ["s1:buy"], 0)
    expected = curve.quote_buy_sol(FRESH, TERMS.buy_lamports - FEE).tokens
    assert intent.tokens == ceil_div(expected * 9, 10)  # a tenth fewer than the signal's own market gives
    fill = landed(account, intent, grown(SOL, NOW + 7), LANDED)
    assert isinstance(fill, Fill)
    assert (fill.order_id, fill.signal_id, fill.price_at_ns, fill.at_ns) == ("s1:buy", "s1", NOW + 7, LANDED)
    assert intent.tokens <= fill.tokens < expected
    assert fill.lamports <= TERMS.buy_lamports
    assert (account.pending, account.paid_lamports) == ({}, fill.lamports)


def test_the_same_signal_gives_the_same_bytes() -> None:
    first, second = (bot.on_signal(Account(), RUNNING, signal(), grown(SOL), NOW) for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (grown(SOL, NOW + 1), Reason.SIGNAL),  # 6.7 percent dearer: within the limit
        (grown(5 * SOL, NOW + 1), Reason.SLIPPAGE),  # 6002
        (grown(100 * SOL, NOW + 1), Reason.CURVE_COMPLETE),  # 6005
        (pool(NOW + 1, None), Reason.CURVE_COMPLETE),  # gone from its curve, its pool unknown
        (pool(NOW + 1), Reason.SLIPPAGE),  # the pool prices it, far above a fresh curve
        (Price(mint="M", state=None, seen_at_ns=NOW + 1), Reason.NO_PRICE),
        (None, Reason.NO_PRICE),
        (grown(SOL, LANDED - PRICE_AGE_NS_MAX), Reason.SIGNAL),
        (grown(SOL, LANDED - PRICE_AGE_NS_MAX - 1), Reason.NO_PRICE),  # stale
    ],
)
def test_a_purchase_is_judged_when_it_lands(price: Price | None, reason: Reason) -> None:
    account = Account()
    intent = ordered(account, bot.on_signal(account, RUNNING, signal(), None, NOW))
    outcome = landed(account, intent, price, LANDED)
    assert isinstance(outcome, Fill | Refusal)
    assert (outcome.reason, outcome.order_id, outcome.at_ns) == (reason, "s1:buy", LANDED)
    assert (account.pending, account.signals, account.paid_lamports > 0) == ({}, 1, reason is Reason.SIGNAL)


def test_a_coin_that_migrated_is_bought_from_its_pool() -> None:
    near = curve.quote_buy_sol(FRESH, 84 * SOL).after
    account = Account()
    intent = ordered(account, bot.on_signal(account, RUNNING, signal(state=near), None, NOW))
    fill = landed(account, intent, pool(NOW + 1), LANDED)
    assert isinstance(fill, Fill)
    assert fill.tokens == amm.quote_buy_sol(amm.AT_MIGRATION, TERMS.buy_lamports - FEE).tokens


@pytest.mark.parametrize(
    ("given", "price", "reason"),
    [
        # no curve in the signal, or a complete one: the newest known market counts
        (signal(state=None), pool(), None),
        (signal(state=curve.COMPLETE), pool(), None),
        (signal(state=None), grown(SOL), None),
        (signal(state=curve.COMPLETE), None, Reason.CURVE_COMPLETE),
        (signal(state=curve.COMPLETE), pool(state=None), Reason.CURVE_COMPLETE),
        (signal(state=None), of_market("M", market(curve.COMPLETE)), Reason.CURVE_COMPLETE),
        (signal(state=None), None, Reason.NO_PRICE),
        (signal(state=None), pool(state=None), Reason.NO_PRICE),
    ],
)
def test_what_a_signal_expects_comes_from_a_market_that_sells(
    given: Signal, price: Price | None, reason: Reason | None
) -> None:
    (entry,) = bot.on_signal(Account(), RUNNING, given, price, NOW)
    assert (entry.reason if isinstance(entry, Refusal) else None) == reason
    assert reason is not None or isinstance(entry, Intent)


OPTED_IN = running(trade_unknown_arithmetic=True)


@pytest.mark.parametrize(
    ("mandate", "given", "at", "reason"),
    [
        # each limit, told once and without an order
        (RUNNING, signal(), NOW + 10 * SECOND + 1, Reason.EXPIRED),
        (stopped(RUNNING), signal(), NOW, Reason.NOT_RUNNING),
        (stopped(RUNNING), signal(), NOW + 11 * SECOND, Reason.EXPIRED),  # before anything else
        (msgspec.structs.replace(RUNNING, killed="why"), signal(), NOW, Reason.KILL_SWITCH),
        (running(blocked_creators=frozenset({"somebody"})), signal(), NOW, Reason.BLOCKED_CREATOR),
        (RUNNING, signal(arithmetic_known=False), NOW, Reason.UNKNOWN_ARITHMETIC),
        (OPTED_IN, signal(arithmetic_known=False, state=None), NOW, Reason.UNKNOWN_ARITHMETIC),  # no curve at all
        (RUNNING, signal(state=curve.COMPLETE), NOW, Reason.CURVE_COMPLETE),
        (running(buy_lamports=FEE + 1), signal(), NOW, Reason.TOO_SMALL),
        (running(buy_lamports=FEE - 1), signal(), NOW, Reason.TOO_SMALL),
        (running(budget_lamports=1), signal(), NOW, Reason.BUDGET),
        (running(max_open_positions=0), signal(), NOW, Reason.MAX_OPEN_POSITIONS),
        (running(max_entries_per_hour=0), signal(), NOW, Reason.MAX_ENTRIES_PER_HOUR),
        (running(daily_loss_limit_lamports=0), signal(), NOW, Reason.DAILY_LOSS_LIMIT),
        (RUNNING, signal(side=Side.SELL), NOW, Reason.NOT_HELD),
        (stopped(RUNNING), signal(side=Side.SELL), NOW, Reason.NOT_RUNNING),
    ],
)
def test_a_signal_that_makes_no_order_is_refused_once(mandate: Mandate, given: Signal, at: int, reason: Reason) -> None:
    (refusal,) = bot.on_signal(Account(), mandate, given, None, at)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.signal_id, refusal.order_id) == ("s1:refused", "s1", None)
    assert (refusal.reason, refusal.side, refusal.at_ns) == (reason, given.side, at)
    assert refusal.detail


def test_a_user_who_opted_in_trades_a_coin_of_another_arithmetic_by_its_curve() -> None:
    (entry,) = bot.on_signal(Account(), OPTED_IN, signal(arithmetic_known=False), None, NOW)
    assert isinstance(entry, Intent)


def test_the_central_switch_refuses_everybody_s_entries_and_nobody_s_sales() -> None:
    account = holding()
    (refusal,) = bot.on_signal(account, RUNNING, signal(2, mint="N"), None, LANDED, "maintenance")
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, "maintenance" in refusal.detail) == (Reason.KILL_SWITCH, True)
    (sale,) = bot.on_signal(account, RUNNING, signal(3, side=Side.SELL), None, LANDED, "maintenance")
    assert isinstance(sale, Intent)


def test_a_coin_that_is_held_or_being_bought_is_not_bought_again() -> None:
    account = Account()
    ordered(account, bot.on_signal(account, RUNNING, signal(), None, NOW))
    for known in (account, holding()):
        (refusal,) = bot.on_signal(known, RUNNING, signal(2), None, NOW)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.ALREADY_HELD


# Sales


def test_a_sell_signal_sells_all_and_is_settled_by_its_own_id() -> None:
    account = holding()
    held = account.positions["M"].tokens
    intent = ordered(account, bot.on_signal(account, RUNNING, signal(2, side=Side.SELL), None, LANDED))
    assert (account.signals, intent.reason) == (1, Reason.SELL_SIGNAL)
    fill = landed(account, intent, grown(SOL, LANDED + 1), LANDED + 2)
    assert isinstance(fill, Fill)
    assert (fill.signal_id, fill.order_id, fill.tokens, fill.reason) == ("s2", "s1:buy:exit1", held, Reason.SELL_SIGNAL)
    assert (account.positions, account.signals) == ({}, 2)


def test_a_sell_signal_that_meets_no_market_is_refused_and_keeps_the_position() -> None:
    account = holding()
    intent = ordered(account, bot.on_signal(account, RUNNING, signal(2, side=Side.SELL), None, LANDED))
    outcome = landed(account, intent, pool(LANDED + 1, None), LANDED + 2)
    assert isinstance(outcome, Refusal)
    assert (outcome.reason, account.signals, "M" in account.positions) == (Reason.NO_PRICE, 2, True)
    # The refused order's id is spent.
    (again,) = bot.on_signal(account, RUNNING, signal(3, side=Side.SELL), None, LANDED + 3)
    assert again.id == "s1:buy:exit2"


def test_a_sell_signal_finds_a_coin_that_is_being_sold_already() -> None:
    account = holding()
    ordered(account, bot.on_price(account, "M", RUNNING, grown(10 * SOL, LANDED + 1), LANDED + 1))
    (refusal,) = bot.on_signal(account, RUNNING, signal(2, side=Side.SELL), None, LANDED + 2)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.order_id) == (Reason.NOT_HELD, None)


def test_a_gain_is_ordered_when_the_price_allows_it_and_taken_when_it_lands() -> None:
    account = holding()
    assert bot.on_price(account, "M", RUNNING, grown(5 * SOL), LANDED + SECOND) == []
    intent = ordered(account, bot.on_price(account, "M", RUNNING, grown(10 * SOL), LANDED + SECOND))
    assert (intent.id, intent.signal_id, intent.reason) == ("s1:buy:exit1", "s1", Reason.TAKE_PROFIT)
    assert bot.on_price(account, "M", RUNNING, grown(20 * SOL), LANDED + SECOND + 1) == []  # it is under way
    assert bot.next_deadline_ns(account, "M", RUNNING, grown(20 * SOL), LANDED + SECOND + 1) is None
    fill = landed(account, intent, grown(20 * SOL), LANDED + 2 * SECOND)
    assert isinstance(fill, Fill)
    assert account.positions == {}
    assert account.realised_lamports == account.received_lamports - account.paid_lamports >= SOL // 40
    assert account.network_fees_lamports == 2 * FEE


@pytest.mark.parametrize(
    ("mandate", "price", "at_landing", "reason"),
    [
        # a gain at leisure has a floor, 10 percent below what was expected: 6003
        (by(Fixed(gain_bps=5_000)), grown(10 * SOL), grown(9 * SOL), Reason.TAKE_PROFIT),
        (by(Fixed(gain_bps=5_000)), grown(10 * SOL), grown(7 * SOL), Reason.SLIPPAGE),
        (by(Ladder(levels=(Level(gain_bps=5_000, sell_bps=4_000),))), grown(10 * SOL), grown(7 * SOL), Reason.SLIPPAGE),
        # whatever must happen has none
        (by(TimeExit(after_ns=SECOND)), grown(10 * SOL), grown(0), Reason.TIME_EXIT),
        (running(max_hold_ns=SECOND), grown(5 * SOL), grown(0), Reason.MAX_HOLD),
        (running(stop_loss_bps=100), grown(0), grown(0), Reason.STOP_LOSS),
    ],
)
def test_only_a_gain_taken_at_leisure_is_refused_for_its_price(
    mandate: Mandate, price: Price, at_landing: Price, reason: Reason
) -> None:
    account = holding(mandate)
    intent = ordered(account, bot.on_price(account, "M", mandate, price, LANDED + SECOND))
    outcome = landed(account, intent, at_landing, LANDED + 2 * SECOND, mandate)
    assert isinstance(outcome, Fill | Refusal)
    assert outcome.reason is reason
    position = account.positions.get("M")
    assert (position is not None and position.refused == 1) == (reason is Reason.SLIPPAGE)


def test_a_floor_is_the_user_s_slippage_below_what_the_sale_would_bring() -> None:
    account = holding()
    price = grown(10 * SOL)
    intent = ordered(account, bot.on_price(account, "M", RUNNING, price, LANDED + SECOND))
    assert isinstance(price.state, Curve)
    expected = curve.quote_sell(price.state, intent.tokens).lamports
    assert intent.lamports == ceil_div(expected * (BPS - 1_000), BPS)


def test_a_refused_exit_writes_nothing_more_until_a_price_or_its_time_comes() -> None:
    account = holding(by(TimeExit(after_ns=60 * SECOND)))
    mandate, due, gone = by(TimeExit(after_ns=60 * SECOND)), LANDED + 60 * SECOND, pool(LANDED + 61 * SECOND, None)
    intent = ordered(account, bot.on_time(account, "M", mandate, grown(SOL), due))
    outcome = landed(account, intent, gone, due + LANDING_NS_DEFAULT, mandate)
    assert isinstance(outcome, Refusal)
    assert (outcome.order_id, outcome.reason, account.signals) == ("s1:buy:exit1", Reason.NO_PRICE, 1)
    for later in range(1, 100):
        assert bot.on_price(account, "M", mandate, gone, outcome.at_ns + later * SECOND) == []
        assert bot.on_time(account, "M", mandate, gone, outcome.at_ns + later * SECOND) == []
    known = pool(outcome.at_ns + 1)
    again = ordered(account, bot.on_price(account, "M", mandate, known, outcome.at_ns + 1))
    assert (again.id, again.reason) == ("s1:buy:exit2", Reason.TIME_EXIT)


def test_a_coin_that_is_not_held_causes_nothing() -> None:
    assert bot.on_price(Account(), "M", RUNNING, grown(SOL), NOW) == []
    assert bot.on_time(Account(), "M", RUNNING, grown(SOL), NOW) == []
    assert bot.on_alarm(Account(), "M", RUNNING, grown(SOL), NOW) == []
    assert bot.next_deadline_ns(Account(), "M", RUNNING, None, NOW) is None


@pytest.mark.parametrize("price", [None, pool(state=None), of_market("M", market(curve.COMPLETE))])
def test_a_due_exit_without_a_price_writes_nothing_and_comes_later(price: Price | None) -> None:
    mandate = by(TimeExit(after_ns=60 * SECOND))
    account = holding(mandate)
    due = bot.next_deadline_ns(account, "M", mandate, price, LANDED)
    assert due == LANDED + 60 * SECOND
    assert bot.on_time(account, "M", mandate, price, due) == []
    if price is not None:
        assert bot.on_price(account, "M", mandate, price, due) == []
    (intent,) = bot.on_time(account, "M", mandate, grown(SOL), due + SECOND)
    assert isinstance(intent, Intent)
    assert intent.reason is Reason.TIME_EXIT


def test_an_exit_that_would_return_nothing_is_not_written() -> None:
    worthless = pool(LANDED + 1, amm.Pool(10**18, 1))
    assert bot.on_price(holding(), "M", RUNNING, worthless, LANDED + SECOND) == []


def test_an_order_to_sell_what_is_gone_is_refused_and_never_an_error() -> None:
    account = holding()
    intent = ordered(account, bot.on_price(account, "M", RUNNING, grown(10 * SOL), LANDED + SECOND))
    outcome = bot.land(Account(), RUNNING, intent, grown(10 * SOL), LANDED + 2 * SECOND)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is Reason.NOT_HELD


def test_a_trailing_stop_follows_the_highest_price_also_when_it_was_only_observed() -> None:
    mandate = by(TrailingStop(arm_bps=3_000, trail_bps=2_500))
    prices = [grown(20 * SOL, LANDED + 1), grown(12 * SOL, LANDED + 2)]
    account = holding(mandate)
    assert bot.on_price(account, "M", mandate, prices[0], LANDED + 1) == []
    followed = bot.on_price(account, "M", mandate, prices[1], LANDED + 2)
    again = holding(mandate)
    bot.observe(again, "M", prices[0])
    assert bot.on_price(again, "M", mandate, prices[1], LANDED + 2) == followed
    assert isinstance(followed[0], Intent)
    assert followed[0].reason is Reason.TAKE_PROFIT


def test_a_price_from_before_the_opening_is_no_peak() -> None:
    mandate = by(TrailingStop(arm_bps=3_000, trail_bps=2_500))
    account = holding(mandate)
    bot.observe(account, "M", grown(20 * SOL, LANDED))
    assert account.positions["M"].peak_lamports == 0
    assert bot.on_price(account, "M", mandate, grown(12 * SOL, LANDED + 2), LANDED + 2) == []
