"""bots/paper.py: an order and a market give a fill that adds up, or a refusal with its reason."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.paper import PRICE_AGE_NS_MAX, execute, network_fee_lamports, proceeds_lamports
from bots.prices import Price, State
from schemas import curve
from schemas.amm import AT_MIGRATION, Pool
from schemas.config import BotConfig, terms
from schemas.curve import COMPLETE, FRESH
from schemas.events import Fill, Intent, Reason, Refusal, Side, Strategy

NOW = 1_000
MILLION = 1_000_000_000_000  # a million tokens in base units
FEE = 505_000  # the network's, with the default priority fee


def price(state: State, **changes: Any) -> Price:
    return Price(**{"mint": "M", "state": state, "seen_at_ns": 900, **changes})


def buy(lamports: int, tokens: int = 0) -> Intent:
    return Intent(
        id="s:buy", signal_id="s", mint="M", side=Side.BUY, lamports=lamports, tokens=tokens, venue="paper",
        reason=Reason.SIGNAL, at_ns=NOW,
    )  # fmt: skip


def sell(tokens: int, lamports: int = 0) -> Intent:
    return Intent(
        id="s:buy:exit1", signal_id="s", mint="M", side=Side.SELL, lamports=lamports, tokens=tokens, venue="paper",
        reason=Reason.STOP_LOSS, at_ns=NOW,
    )  # fmt: skip


def test_the_network_takes_a_base_fee_and_what_the_user_offers() -> None:
    config = BotConfig(strategy=Strategy.SNIPER)
    assert network_fee_lamports(terms(config)) == FEE
    free = BotConfig(strategy=Strategy.SNIPER, priority_fee_sol=Decimal(0))
    assert network_fee_lamports(terms(free)) == 5_000


def test_a_buy_on_the_curve_is_filled_at_its_price_with_all_fees() -> None:
    assert execute(buy(1_000_505_000, 34_199_203_154_141), price(FRESH), FEE, NOW) == Fill(
        id="s:buy:fill", order_id="s:buy", signal_id="s", mint="M", side=Side.BUY, tokens=34_199_203_154_141,
        lamports=1_000_505_000, curve_lamports=987_654_320, protocol_fee_lamports=9_382_717,
        creator_fee_lamports=2_962_963, network_fee_lamports=FEE, reason=Reason.SIGNAL, price_at_ns=900, at_ns=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("intent", "state", "tokens", "lamports"),
    [
        (sell(MILLION), FRESH, MILLION, 27_583_797 - FEE),
        (sell(MILLION, 27_583_797), FRESH, MILLION, 27_583_797 - FEE),  # exactly the least to accept
        (sell(MILLION), AT_MIGRATION, MILLION, 403_693_983 - FEE),
        (buy(100_505_000), AT_MIGRATION, 240_154_865_663, 99_999_999 + FEE),
        (sell(MILLION // 1_000), FRESH, MILLION // 1_000, 27_608 - FEE),  # what it returns does not pay its fee
    ],
)
def test_orders_fill_on_curve_and_pool(intent: Intent, state: State, tokens: int, lamports: int) -> None:
    fill = execute(intent, price(state), FEE, NOW)
    assert isinstance(fill, Fill)
    assert (fill.tokens, fill.lamports, fill.network_fee_lamports) == (tokens, lamports, FEE)


@pytest.mark.parametrize(
    ("intent", "market", "reason"),
    [
        (buy(1_000_505_000, 34_199_203_154_142), price(FRESH), Reason.SLIPPAGE),  # one unit more than there is
        (buy(1_000_000_000), price(COMPLETE), Reason.CURVE_COMPLETE),
        (buy(FEE), price(FRESH), Reason.TOO_SMALL),  # the network's fee takes it all
        (buy(FEE - 1), price(FRESH), Reason.TOO_SMALL),
        (buy(FEE + 2), price(AT_MIGRATION), Reason.TOO_SMALL),
        (buy(1_000_000_000), None, Reason.NO_PRICE),
        (buy(1_000_000_000), price(None), Reason.NO_PRICE),
        (buy(1_000_000_000), price(None, pool="pump-amm", migrated_at_ns=5), Reason.CURVE_COMPLETE),
        (sell(MILLION), price(None, pool="pump-amm", migrated_at_ns=5), Reason.NO_PRICE),
        (buy(1_000_000_000), price(FRESH, seen_at_ns=NOW - PRICE_AGE_NS_MAX - 1), Reason.NO_PRICE),  # stale
        (buy(1_000_000_000), price(None, pool="bonk", ordinary=False), Reason.UNKNOWN_ARITHMETIC),
        (buy(1_000_000_000), price(None, ordinary=False), Reason.UNKNOWN_ARITHMETIC),  # a coin quoted in USDC
        (buy(1_000_000_000), price(None, pool="raydium", migrated_at_ns=5), Reason.UNKNOWN_ARITHMETIC),
        (sell(MILLION, 27_583_798), price(FRESH), Reason.SLIPPAGE),
        (sell(MILLION), price(COMPLETE), Reason.NO_PRICE),  # nothing trades until it has migrated
        (sell(1), price(FRESH), Reason.TOO_SMALL),
        (sell(MILLION), None, Reason.NO_PRICE),
        (sell(100 * MILLION), price(Pool(500 * MILLION, 1_230_000_000, 17_584_505_288)), Reason.NO_PRICE),  # drained
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(intent: Intent, market: Price | None, reason: Reason) -> None:
    refusal = execute(intent, market, FEE, NOW)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.order_id, refusal.reason) == (f"{intent.id}:refused", intent.id, reason)
    assert refusal.detail


@pytest.mark.parametrize("intent", [buy(1_000_000_000), sell(MILLION)])
def test_an_order_meets_a_price_that_is_just_not_stale_and_a_sale_meets_any(intent: Intent) -> None:
    old = NOW + PRICE_AGE_NS_MAX
    assert isinstance(execute(intent, price(FRESH, seen_at_ns=NOW), FEE, old), Fill)
    later = execute(intent, price(FRESH, seen_at_ns=NOW), FEE, old + 1)
    assert isinstance(later, Fill) == (intent.side is Side.SELL)


@pytest.mark.parametrize(
    ("market", "lamports"),
    [(price(FRESH), 27_583_797), (price(AT_MIGRATION), 403_693_983), (price(COMPLETE), None), (None, None)],
)
def test_proceeds_are_what_a_sale_would_bring(market: Price | None, lamports: int | None) -> None:
    assert proceeds_lamports(market, MILLION) == lamports


@given(
    st.integers(0, 80_000_000_000), st.integers(2, 10**11), st.integers(0, 10**15), st.integers(5_000, 10**9),
    st.booleans(),
)  # fmt: skip
def test_every_fill_adds_up_exactly(moved: int, spend: int, tokens: int, fee: int, pool: bool) -> None:
    market = price(AT_MIGRATION if pool else curve.quote_buy_sol(FRESH, moved).after)
    bought, sold = execute(buy(spend), market, fee, NOW), execute(sell(tokens), market, fee, NOW)
    if isinstance(bought, Fill):
        fees = bought.protocol_fee_lamports + bought.creator_fee_lamports + bought.network_fee_lamports
        assert bought.lamports == bought.curve_lamports + fees <= spend
    if isinstance(sold, Fill):
        fees = sold.protocol_fee_lamports + sold.creator_fee_lamports + sold.network_fee_lamports
        assert sold.lamports == sold.curve_lamports - fees == (proceeds_lamports(market, tokens) or 0) - fee
        assert sold.tokens == tokens
