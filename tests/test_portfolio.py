"""bots/portfolio.py and portal/portfolio.py: figures that add up to the lamport, and the same in SOL for people."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots import portfolio
from bots.mandate import UNKNOWN, Mandate
from bots.paper import execute, network_fee_lamports
from bots.positions import Account, take
from bots.prices import Price
from portal import portfolio as told
from schemas import amm, curve
from schemas.config import BotConfig, terms
from schemas.curve import FRESH
from schemas.events import Entry, Fill, Intent, Reason, Refusal, Side, Strategy
from schemas.subjects import partition

SECOND = 1_000_000_000
DAY_NS = 86_400 * SECOND
NOW = 20_000 * DAY_NS
SOL = 1_000_000_000
TERMS = terms(BotConfig(strategy=Strategy.SNIPER))
RUNNING = Mandate(terms=TERMS, running=True)
FEE = network_fee_lamports(TERMS)


def intent(mint: str, side: Side, tokens: int = 0, lamports: int = 0, at_ns: int = NOW, number: int = 1) -> Intent:
    buy = side is Side.BUY
    return Intent(
        id=f"{mint}:buy" if buy else f"{mint}:buy:exit{number}", signal_id=mint, mint=mint, side=side,
        lamports=lamports, tokens=tokens, venue="paper",
        reason=Reason.SIGNAL if buy else Reason.TAKE_PROFIT, at_ns=at_ns,
    )  # fmt: skip


def price(mint: str, moved: int = 0, at_ns: int = NOW) -> Price:
    return Price(mint=mint, state=curve.quote_buy_sol(FRESH, moved).after, seen_at_ns=at_ns)


def bought(mint: str, moved: int = 0, lamports: int = TERMS.buy_lamports) -> list[Entry]:
    order = intent(mint, Side.BUY, lamports=lamports)
    return [order, execute(order, price(mint, moved), FEE, NOW)]


def sold(account: Account, mint: str, moved: int, tokens: int = 0, after_s: int = 60) -> list[Entry]:
    position = account.positions[mint]
    at_ns = NOW + after_s * SECOND
    order = intent(mint, Side.SELL, tokens or position.tokens, at_ns=at_ns, number=position.exits + 1)
    return [order, execute(order, price(mint, moved, at_ns), FEE, at_ns)]


def test_a_portfolio_tells_what_is_held_what_it_cost_and_what_it_would_return() -> None:
    account = Account()
    take(account, bought("M"))
    take(account, bought("N"))
    take(account, sold(account, "N", 10 * SOL))  # a gain
    take(account, bought("O"))
    take(account, sold(account, "O", 0))  # even before fees
    take(account, [intent("P", Side.BUY, lamports=TERMS.buy_lamports)])
    prices = {"M": price("M", 5 * SOL, NOW + 9)}

    whole = portfolio.portfolio("u", account, RUNNING, prices.get, NOW + DAY_NS - 1)

    fills = account.positions["M"]
    assert isinstance(prices["M"].state, curve.Curve)
    value = curve.quote_sell(prices["M"].state, fills.tokens).lamports - FEE
    (held,) = whole.positions
    assert (held.mint, held.tokens, held.cost_lamports, held.value_lamports) == (
        "M", fills.tokens, fills.open_cost_lamports, value,
    )  # fmt: skip
    assert (held.unrealised_lamports, held.price_at_ns, held.selling) == (value - held.cost_lamports, NOW + 9, False)
    metrics, balances = whole.metrics, whole.balances
    assert (metrics.entries, metrics.open, metrics.pending, metrics.closed, metrics.won) == (3, 1, 1, 2, 1)
    assert (metrics.win_rate_bps, metrics.mean_hold_seconds) == (5_000, 60)
    assert metrics.network_fees_lamports == 5 * FEE
    assert metrics.fees_lamports == (
        metrics.protocol_fees_lamports + metrics.creator_fees_lamports + metrics.network_fees_lamports
    )
    assert metrics.day_realised_lamports == metrics.realised_lamports
    assert metrics.profit_lamports == metrics.realised_lamports + metrics.unrealised_lamports
    assert (balances.budget_lamports, balances.reserved_lamports) == (SOL, TERMS.buy_lamports)
    assert balances.free_lamports == balances.cash_lamports - TERMS.buy_lamports
    assert balances.equity_lamports == SOL + metrics.profit_lamports
    assert [order.id for order in whole.orders] == ["P:buy"]


@pytest.mark.parametrize(
    "known",
    [
        None,
        Price(mint="M", state=None, seen_at_ns=NOW, pool="pump-amm", migrated_at_ns=NOW),
        Price(mint="M", state=curve.COMPLETE, seen_at_ns=NOW),  # it trades again when it has migrated
    ],
)
def test_a_position_without_a_price_is_told_as_such_and_counts_nothing(known: Price | None) -> None:
    account = Account()
    take(account, bought("M"))
    whole = portfolio.portfolio("u", account, RUNNING, lambda _: known, NOW)
    (held,) = whole.positions
    assert (held.value_lamports, held.unrealised_lamports, held.price_at_ns) == (None, None, None)
    assert (whole.metrics.unpriced, whole.metrics.unrealised_lamports) == (1, 0)
    assert whole.balances.equity_lamports == whole.balances.cash_lamports


def test_yesterdays_losses_are_not_todays() -> None:
    account = Account()
    take(account, bought("M"))
    take(account, sold(account, "M", 0))
    today = portfolio.portfolio("u", account, RUNNING, dict[str, Price]().get, NOW)
    tomorrow = portfolio.portfolio("u", account, RUNNING, dict[str, Price]().get, NOW + DAY_NS)
    assert today.metrics.day_realised_lamports == today.metrics.realised_lamports < 0
    assert (tomorrow.metrics.day_realised_lamports, tomorrow.metrics.closed) == (0, 1)


def test_a_user_without_a_ledger_has_the_budget_and_one_without_a_bot_is_unknown() -> None:
    answer = json.loads(portfolio.answer("u", None, RUNNING, dict[str, Price]().get, NOW))
    assert answer["balances"]["equity_lamports"] == SOL
    assert answer["metrics"]["win_rate_bps"] is None
    for mandate in (None, UNKNOWN):
        nobody = json.loads(portfolio.answer("u", None, mandate, dict[str, Price]().get, NOW))
        assert nobody == {"success": False, "error": "this user has no bot"}


@given(
    st.lists(st.tuples(st.integers(0, 80 * SOL), st.integers(0, 80 * SOL), st.integers(1, 100)), max_size=8),
    st.integers(0, 80 * SOL),
    st.booleans(),
)
def test_the_money_is_all_there(trades: list[tuple[int, int, int]], now_at: int, migrated: bool) -> None:
    account = Account()
    for number, (at, later, percent) in enumerate(trades):
        mint = f"M{number}"
        take(account, bought(mint, at))
        if mint in account.positions:
            tokens = max(1, account.positions[mint].tokens * percent // 100)
            entries = sold(account, mint, later, tokens)
            take(account, entries if isinstance(entries[-1], Fill | Refusal) else [])

    def now(mint: str) -> Price:
        if migrated:
            return Price(mint=mint, state=amm.AT_MIGRATION, seen_at_ns=NOW, migrated_at_ns=NOW, pool="pump-amm")
        return price(mint, now_at)

    whole = portfolio.portfolio("u", account, RUNNING, now, NOW)
    balances, metrics = whole.balances, whole.metrics
    assert metrics.unpriced == 0
    assert balances.equity_lamports == balances.budget_lamports + metrics.profit_lamports
    assert balances.equity_lamports == balances.cash_lamports + balances.positions_lamports
    assert metrics.unrealised_lamports == balances.positions_lamports - balances.positions_cost_lamports
    assert metrics.network_fees_lamports == FEE * metrics.fills
    assert metrics.closed + metrics.open == metrics.entries


# For people


def test_beside_every_amount_in_lamports_stands_the_same_in_sol() -> None:
    account = Account()
    take(account, bought("M"))
    answer = json.loads(portfolio.answer("u", account, RUNNING, dict[str, Price]().get, NOW + 1_500_000_000))
    metrics, balances = told.metrics(answer), told.balances(answer)
    assert (metrics["success"], metrics["user"], metrics["timestamp"]) == (True, "u", "2024-10-04T00:00:01Z")
    assert metrics["metrics"]["network_fees_sol"] == "0.000505000"
    (held,) = metrics["positions"]
    assert (held["value_lamports"], held["value_sol"]) == (None, None)
    assert held["cost_sol"] == f"0.{held['cost_lamports']:09d}"
    assert balances["balances"]["budget_sol"] == "1.000000000"
    names = [name for part in (metrics["metrics"], balances["balances"], held) for name in part]
    assert {name.removesuffix("_lamports") for name in names if name.endswith("_lamports")} == {
        name.removesuffix("_sol") for name in names if name.endswith("_sol")
    }


@pytest.mark.parametrize("user", ["1", "a-b_C", "x" * 64])
def test_bots_and_portal_meet_on_the_same_subject(user: str) -> None:
    assert told.subject(user, 32) == portfolio.subject(partition(user, 32))
    assert portfolio.question(json.dumps({"user": user}).encode()) == user


@pytest.mark.parametrize("query", [{}, {"user": ""}, {"user": "a b"}, {"user": "_kill_switch"}, {"user": "*"}])
def test_a_question_that_names_no_user_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(told.BadUser, match="user"):
        told.user_of(query)


def test_the_answer_is_integers_only() -> None:
    account = Account()
    take(account, bought("M"))
    whole = portfolio.portfolio("u", account, RUNNING, lambda mint: price(mint, SOL), NOW)

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [number for one in value for number in numbers(one)]
        return [value] if isinstance(value, int | float) else []

    assert all(isinstance(number, int) for number in numbers(msgspec.to_builtins(whole)))
