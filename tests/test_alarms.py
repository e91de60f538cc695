"""analyze/alarms.py: what is measured, when it is an alarm, and that each level is raised once."""

from typing import Any

import pytest

from analyze.alarms import BUYERS_MIN, LEVELS, SELLS_MIN, Kind, Raised, measure
from analyze.tokens import Launches, Token
from analyze.windows import SECOND_NS
from schemas import curve
from schemas.events import Market, Quote, Side, TokenCreated, TokenTraded

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000


class Trading:
    """A token with real curve arithmetic behind it."""

    def __init__(self, paid: int = SOL, mayhem: bool = False) -> None:
        first = curve.quote_buy_sol(curve.FRESH, paid)
        self.state, self.now_ns, self.dev_tokens = first.after, START, first.tokens
        self.token = Token(
            TokenCreated(
                id="c", mint="M", signature="s", creator="dev", pool="pump", name="Coin", symbol="COIN", uri="ipfs://x",
                dev_buy_tokens=first.tokens, dev_buy_lamports=first.curve_lamports, market=self._market(),
                quote=Quote.SOL, mayhem=mayhem, seen_at_ns=START,
            ),
            Launches(1, 1, 1),
        )  # fmt: skip

    def buy(self, trader: str, paid: int, after_s: float = 1) -> None:
        self._swap(curve.quote_buy_sol(self.state, paid), Side.BUY, trader, after_s)

    def sell(self, trader: str, tokens: int, after_s: float = 1) -> None:
        self._swap(curve.quote_sell(self.state, tokens), Side.SELL, trader, after_s)

    def measured(self, on_curve: bool = True) -> dict[Kind, int]:
        return measure(self.token, self.now_ns, on_curve)

    def _swap(self, swap: curve.Swap, side: Side, trader: str, after_s: float) -> None:
        self.state = swap.after
        self.now_ns += int(after_s * SECOND_NS)
        self.token.trade(
            TokenTraded(
                id="t", mint="M", signature="s", side=side, trader=trader, pool="pump", lamports=swap.curve_lamports,
                tokens=swap.tokens, trader_tokens_after=None, market=self._market(), pool_lamports=None,
                pool_tokens=None, seen_at_ns=self.now_ns,
            )
        )  # fmt: skip

    def _market(self) -> Market:
        state = self.state
        return Market(
            virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=self.now_ns
        )


@pytest.mark.parametrize(
    ("paid", "sold_percent", "bps"),
    [
        (SOL, 0, None),
        (SOL, 50, 4_999),  # a unit less than half, rounded down
        (SOL, 100, 10_000),
        (SOL // 10, 100, None),  # 0.34 % of the supply: not worth an alarm
        (SOL // 6, 100, 10_000),  # 0.57 %
    ],
)
def test_the_creators_sales_count_where_it_bought_something(paid: int, sold_percent: int, bps: int | None) -> None:
    trading = Trading(paid)
    trading.buy("a", 5 * SOL)
    if sold_percent:
        trading.sell("dev", trading.dev_tokens * sold_percent // 100)
    assert trading.measured().get(Kind.DEV_SOLD) == bps
    assert trading.measured(on_curve=False) == ({Kind.DEV_SOLD: bps} if bps else {})


@pytest.mark.parametrize(
    ("sales", "purchases", "counts"),
    [
        (SELLS_MIN, 0, True),
        (SELLS_MIN - 1, 0, False),  # too few to be a crowd leaving
        (6, 3, True),  # twice as many sales as purchases
        (5, 3, False),
    ],
)
def test_sell_pressure_needs_sales_that_outnumber_purchases(sales: int, purchases: int, counts: bool) -> None:
    trading = Trading()
    trading.buy("a", 20 * SOL)
    for n in range(purchases):
        trading.buy(f"b{n}", SOL // 100, 40 if n == 0 else 1)  # the first purchase is older than 30 s by then
    for n in range(sales):
        trading.sell("a", 40_000_000_000_000, 40 if n == purchases == 0 else 1)
    assert (Kind.SELL_PRESSURE in trading.measured()) is counts
    if counts:
        assert trading.measured()[Kind.SELL_PRESSURE] > 2_000


@pytest.mark.parametrize(
    ("buyers", "whale", "each", "counts"),
    [
        (BUYERS_MIN - 1, 12 * SOL, SOL // 10, True),  # and the whale: ten buyers
        (BUYERS_MIN - 2, 12 * SOL, SOL // 10, False),  # too few buyers to say that one of them owns it
        (BUYERS_MIN + 20, 3 * SOL, SOL // 100, False),  # too little of the curve is sold
    ],
)
def test_concentration_needs_a_market_that_one_could_dominate(buyers: int, whale: int, each: int, counts: bool) -> None:
    trading = Trading()
    for n in range(buyers):
        trading.buy(f"t{n}", each)
    trading.buy("whale", whale)
    assert (Kind.CONCENTRATION in trading.measured()) is counts
    if counts:
        assert trading.measured()[Kind.CONCENTRATION] > 7_000


def test_a_creator_that_holds_most_is_no_concentration() -> None:
    """It was known at the creation, and SNIPER and MOMENTUM count it."""
    trading = Trading(paid=12 * SOL)
    for n in range(12):
        trading.buy(f"t{n}", SOL // 10)
    assert trading.measured()[Kind.CONCENTRATION] < 100


@pytest.mark.parametrize(
    ("kept_percent", "after_s", "bps_from"),
    [
        (40, 59, 5_000),  # within a minute of the peak
        (40, 61, None),  # a slow decline is for stop losses
        (0, 3_000, 8_000),  # nothing is left, whenever it was
    ],
)
def test_a_crash_is_a_fall_within_a_minute_or_a_fall_to_nothing(
    kept_percent: int, after_s: int, bps_from: int | None
) -> None:
    trading = Trading(paid=0)
    trading.buy("a", 60 * SOL)
    held = trading.token.holders.balance("a")
    trading.sell("a", held * (100 - kept_percent) // 100, after_s)
    if bps_from is None:
        assert Kind.CRASH not in trading.measured()
    else:
        assert trading.measured()[Kind.CRASH] >= bps_from


@pytest.mark.parametrize("kind", list(Kind))
def test_a_level_is_reached_exactly_at_its_threshold_and_raised_once(kind: Kind) -> None:
    first, second = LEVELS[kind]
    raised = Raised()
    assert raised.raise_new({kind: first.from_value - 1}) == []
    assert not raised
    [alarm] = raised.raise_new({kind: first.from_value})
    assert alarm == (kind, first.label, first.points)
    assert raised.raise_new({kind: second.from_value - 1}) == []
    [alarm] = raised.raise_new({kind: second.from_value})
    assert alarm == (kind, second.label, second.points)
    assert raised.raise_new({kind: 10_000}) == raised.raise_new({kind: first.from_value}) == []
    assert raised.severity == second.points


def test_the_higher_level_at_once_leaves_the_lower_one_out() -> None:
    raised = Raised()
    assert [alarm.label for alarm in raised.raise_new({Kind.CRASH: 9_000})] == ["collapse"]
    assert raised.raise_new({Kind.CRASH: 6_000}) == []


def test_levels_ascend_in_value_and_severity_and_have_names_of_their_own() -> None:
    rows = [row for levels in LEVELS.values() for row in levels]
    assert len({row.label for row in rows}) == len(rows)
    for first, second in LEVELS.values():
        assert 0 < first.from_value < second.from_value <= 10_000
        assert 0 < first.points < second.points <= 100


def test_a_mayhem_coins_odd_reserves_are_no_error() -> None:
    """Accounts with 3 to 6 virtual SOL were seen: less than a curve begins with."""
    trading = Trading(mayhem=True)
    odd: dict[str, Any] = {"virtual_lamports": 3_000_000_000, "virtual_tokens": 2_000_000_000_000_000}
    for n in range(12):
        trading.now_ns += SECOND_NS
        trading.token.trade(
            TokenTraded(
                id="t", mint="M", signature="s", side=Side.SELL, trader=f"t{n}", pool="pump", lamports=SOL, tokens=1,
                trader_tokens_after=5, market=Market(**odd, seen_at_ns=trading.now_ns), pool_lamports=None,
                pool_tokens=None, seen_at_ns=trading.now_ns,
            )
        )  # fmt: skip
    assert trading.measured()[Kind.CRASH] > 8_000
    assert trading.measured()[Kind.SELL_PRESSURE] == 0 or trading.measured()[Kind.SELL_PRESSURE] == 10_000
