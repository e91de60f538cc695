"""analyze/features.py and what it is read from: what is known of a token after its trades."""

import re
from typing import Any

import pytest

from analyze.features import NEVER_S, features_of
from analyze.memory import LaunchCounts
from analyze.patterns import TOGETHER_NS
from analyze.tokens import BUYERS_MAX, Launches, Token, has_curve
from analyze.windows import SECOND_NS, WINDOWS_S
from schemas import curve
from schemas.events import Market, Quote, Side, TokenCreated, TokenTraded

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000
FIRST = Launches(1, 1, 1)


def market(state: curve.Curve, at_ns: int = START) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def created(paid: int = SOL, **changes: Any) -> TokenCreated:
    first = curve.quote_buy_sol(curve.FRESH, paid)
    fields: dict[str, Any] = {
        "id": "c", "mint": "M", "signature": "s", "creator": "dev", "pool": "pump", "name": "The Coin",
        "symbol": "COIN", "uri": "ipfs://x", "dev_buy_tokens": first.tokens, "dev_buy_lamports": first.curve_lamports,
        "market": market(first.after), "quote": Quote.SOL, "mayhem": False, "seen_at_ns": START,
    }  # fmt: skip
    return TokenCreated(**{**fields, **changes})


class Trading:
    """A token with real curve arithmetic behind it; `unheard` trades move the curve and are not fed."""

    def __init__(self, **changes: Any) -> None:
        event = created(**changes)
        assert event.market is not None
        self.state = curve.from_market(event.market)
        self.token = Token(event, FIRST)
        self.number = 0

    def buy(self, trader: str, paid: int, after_s: float = 1, *, heard: bool = True, **changes: Any) -> None:
        self._swap(curve.quote_buy_sol(self.state, paid), Side.BUY, trader, after_s, heard, changes)

    def sell(self, trader: str, tokens: int, after_s: float = 1, *, heard: bool = True, **changes: Any) -> None:
        self._swap(curve.quote_sell(self.state, tokens), Side.SELL, trader, after_s, heard, changes)

    def _swap(
        self, swap: curve.Swap, side: Side, trader: str, after_s: float, heard: bool, changes: dict[str, Any]
    ) -> None:
        self.state, self.number, at_ns = swap.after, self.number + 1, START + int(after_s * SECOND_NS)
        fields: dict[str, Any] = {
            "id": str(self.number), "mint": "M", "signature": "s", "side": side, "trader": trader, "pool": "pump",
            "lamports": swap.curve_lamports, "tokens": swap.tokens, "trader_tokens_after": None,
            "market": market(self.state, at_ns), "pool_lamports": None, "pool_tokens": None, "seen_at_ns": at_ns,
        }  # fmt: skip
        if heard:
            self.token.trade(TokenTraded(**{**fields, **changes}))

    def features(self, after_s: float = 1, gap_seen: bool = False) -> dict[str, int]:
        return features_of(self.token, START + int(after_s * SECOND_NS), gap_seen)


def test_a_creation_alone_tells_of_the_creators_buy_and_the_curve() -> None:
    features = Trading(paid=SOL).features(after_s=0)
    # Domain 3.5: 1 SOL into a fresh curve gets 34,199,203.154141 tokens, 3.41 % of the supply and 4.31 % of the curve.
    assert features["dev_buy_lamports"] == 987_654_320
    assert features["dev_buy_bps"] == 341
    assert features["progress_bps"] == 431
    assert features["market_cap_lamports"] == 30_987_654_320 * 10**15 // 1_038_800_796_845_859
    assert features["age_ms"] == features["net_lamports"] == features["drawdown_bps"] == features["dev_sold"] == 0


def test_the_2024_schema_states_no_purchase_so_the_reserves_tell_it() -> None:
    stated = Trading(paid=SOL).features()
    derived = Trading(paid=SOL, pool="", dev_buy_tokens=None, dev_buy_lamports=None).features()
    assert derived == stated


@pytest.mark.parametrize(
    ("changes", "curve_shown", "arithmetic_known"),
    [
        ({}, True, True),
        ({"pool": ""}, True, True),  # 2024 schema
        ({"mayhem": True}, True, False),  # its creation obeys the curve, what follows does not
        ({"quote": Quote.USDC}, False, False),
        ({"quote": Quote.UNKNOWN}, False, False),
        ({"pool": "bonk"}, False, False),
        ({"market": None}, False, False),
    ],
)
def test_a_coin_is_scored_where_its_frames_show_a_curve_in_sol(
    changes: dict[str, Any], curve_shown: bool, arithmetic_known: bool
) -> None:
    event = created(**changes)
    assert has_curve(event) is curve_shown
    if curve_shown:
        assert Token(event, FIRST).arithmetic_known is arithmetic_known
    else:
        with pytest.raises(ValueError, match="no curve"):
            Token(event, FIRST)


def test_counts_amounts_and_shares_follow_the_trades() -> None:
    trading = Trading(paid=SOL)
    trading.buy("a", 2 * SOL)
    trading.buy("b", SOL)
    trading.buy("a", SOL)
    trading.sell("b", 1_000_000_000_000)
    features = trading.features(2)
    assert (features["buys"], features["sells"], features["unique_buyers"]) == (3, 1, 2)
    net = trading.state.virtual_lamports - 30_987_654_320
    assert features["net_lamports"] == features["buy_lamports"] - features["sell_lamports"] == net
    assert features["largest_buyer_bps"] == 7_500  # 3 of 4 SOL
    assert features["velocity_lamports_s"] == net // 2
    assert features["velocity_10s_lamports_s"] == net // 10
    assert features["velocity_30s_lamports_s"] == net // 30


def test_what_the_reserves_tell_needs_no_trade_to_be_heard() -> None:
    heard, missed = Trading(), Trading()
    for trading in (heard, missed):
        for n in range(5):
            trading.buy(f"t{n}", SOL, heard=trading is heard or n == 4)
    exact = ("progress_bps", "market_cap_lamports", "net_lamports", "velocity_lamports_s", "net_30s_lamports")
    assert {name: heard.features()[name] for name in exact} == {name: missed.features()[name] for name in exact}
    assert (heard.features()["unique_buyers"], missed.features()["unique_buyers"]) == (5, 1)


def test_flow_counts_the_newest_seconds_only() -> None:
    trading = Trading()
    for second in (1, 12, 25, 31):
        trading.buy("a", SOL, second)
    features = trading.features(31)
    assert (features["buys_10s"], features["buys_30s"], features["buys"]) == (2, 3, 4)
    assert trading.features(100)["buys_30s"] == trading.features(100)["net_30s_lamports"] == 0


def test_drawdown_is_from_the_highest_market_cap() -> None:
    trading = Trading()
    trading.buy("a", 10 * SOL)
    peak = trading.features()["market_cap_lamports"]
    trading.sell("a", 200_000_000_000_000)
    features = trading.features()
    assert features["drawdown_bps"] == (peak - features["market_cap_lamports"]) * 10_000 // peak > 0


@pytest.mark.parametrize(
    ("paid", "sold", "after", "sold_bps"),
    [
        (SOL, 0, None, 0),
        (SOL, 17_099_601_577_070, None, 4_999),  # a unit less than half, rounded down
        (SOL, 34_199_203_154_141, 0, 10_000),
        (SOL, 1, None, 1),  # never 0 once it sold
        (SOL, 1_000_000, 0, 10_000),  # sold out, the rest sold where nobody heard
        (0, 1_000_000, None, 10_000),  # it bought where nobody heard
    ],
)
def test_the_creators_sales_are_a_share_of_what_it_bought(
    paid: int, sold: int, after: int | None, sold_bps: int
) -> None:
    trading = Trading(paid=paid)
    trading.buy("a", 5 * SOL)
    if sold:
        trading.sell("dev", sold, trader_tokens_after=after)
    features = trading.features()
    assert features["dev_sold_bps"] == sold_bps
    assert features["dev_sold"] == (sold > 0)


def test_the_creator_is_no_buyer_of_its_own_coin() -> None:
    trading = Trading()
    trading.buy("dev", SOL)
    assert trading.features()["unique_buyers"] == 0
    assert trading.features()["largest_buyer_bps"] == 0
    assert trading.features()["buys"] == 1


def test_buyers_stop_being_counted_at_their_bound() -> None:
    trading = Trading(paid=0)
    for n in range(BUYERS_MAX + 50):
        trading.buy(f"t{n}", 100_000_000)
    assert trading.features()["unique_buyers"] == BUYERS_MAX
    assert trading.features()["buys"] == BUYERS_MAX + 50
    # One that came too late to be counted buys a lot: it still dilutes the others' share.
    before = trading.features()["largest_buyer_bps"]
    trading.buy("late", 10 * SOL)
    assert trading.features()["largest_buyer_bps"] < before


def test_a_trade_without_amount_or_reserves_still_counts() -> None:
    trading = Trading()
    trading.buy("a", SOL, lamports=None)
    amount = trading.features()["buy_lamports"]
    assert amount == trading.features()["net_lamports"] > 0  # the reserves tell the amount
    trading.buy("b", SOL, market=None, lamports=None)
    assert (trading.features()["buys"], trading.features()["buy_lamports"]) == (2, amount)


def test_a_window_empties_with_time_alone() -> None:
    trading = Trading()
    trading.buy("a", SOL)
    trading.sell("a", 1_000_000, 2)
    assert trading.features(11)["buys_10s"] == 0  # 10 s later, to the nanosecond
    features = trading.features(400)
    empty = [name for name in features if name.endswith(("_10s", "_300s")) or "_60s_" in name]
    assert len(empty) > 10
    assert {features[name] for name in empty} == {0}


def test_windows_tell_buyers_from_repeat_buyers_and_leave_the_creator_out() -> None:
    trading = Trading()
    for second, trader in ((1, "a"), (2, "b"), (3, "a"), (4, "dev"), (5, "dev"), (35, "c")):
        trading.buy(trader, SOL // 10, second)
    features = trading.features(35)
    assert [features[f"buyers_{s}s"] for s in WINDOWS_S] == [1, 1, 3, 3]
    assert [features[f"repeat_buyers_{s}s"] for s in WINDOWS_S] == [0, 0, 1, 1]
    assert [features[f"buys_{s}s"] for s in WINDOWS_S] == [1, 1, 6, 6]


def test_acceleration_compares_a_window_with_the_next_shorter_one() -> None:
    trading = Trading(paid=0)
    for second in (5, 25):
        trading.buy("a", SOL, second)
    features = trading.features(30)
    nets = {s: features[f"net_{s}s_lamports"] for s in WINDOWS_S}
    assert 0 < nets[10] < nets[30] == nets[60]
    assert features["acceleration_30s_lamports_s"] == nets[10] // 10 - (nets[30] - nets[10]) // 20 > 0
    assert features["acceleration_60s_lamports_s"] == nets[30] // 30
    assert features["acceleration_300s_lamports_s"] == nets[60] // 60
    assert trading.features(70)["acceleration_300s_lamports_s"] == nets[10] // 60 - (nets[60] - nets[10]) // 240


def test_completion_is_estimated_from_the_newest_minute() -> None:
    trading = Trading(paid=0)
    assert trading.features(1)["completion_s"] == NEVER_S
    trading.buy("a", 10 * SOL, 1)
    net = trading.features(1)["net_60s_lamports"]
    assert trading.features(1)["completion_s"] == (115_005_359_057 - 30_000_000_000 - net) * 60 // net
    trading.sell("a", 300_000_000_000_000, 2, trader_tokens_after=0)
    assert trading.features(62)["completion_s"] == NEVER_S  # only the sale is left in the window


def test_outflow_is_a_share_of_what_was_in_the_curve() -> None:
    trading = Trading(paid=0)
    trading.buy("a", 4 * SOL, 1)
    held = trading.features(1)["net_lamports"]
    trading.sell("a", 40_000_000_000_000, 50)
    features = trading.features(50)
    assert features["outflow_30s_bps"] == -features["net_30s_lamports"] * 10_000 // held > 2_000
    trading.buy("b", 4 * SOL, 51)
    assert trading.features(51)["outflow_30s_bps"] == 0


# Who holds


def test_known_balances_make_the_concentration() -> None:
    trading = Trading(paid=SOL)  # the creator holds 3.41 %
    trading.buy("a", 5 * SOL)
    trading.buy("b", SOL)
    trading.buy("c", SOL)
    features, balance = trading.features(), trading.token.holders.balance
    assert features["dev_holds_bps"] == 341
    assert features["holder_bps"] == balance("a") // 10**11
    assert features["top_3_bps"] == (balance("a") + balance("b") + balance("dev")) // 10**11
    assert features["top_10_bps"] == (1_073_000_000_000_000 - trading.state.virtual_tokens) // 10**11
    sold = 1_073_000_000_000_000 - trading.state.virtual_tokens
    assert features["holder_of_sold_bps"] == balance("a") * 10_000 // sold
    trading.sell("a", 1_000_000, trader_tokens_after=0)  # it says that it has sold out: it sent the rest away
    assert trading.features()["holder_bps"] == 341
    trading.sell("dev", 34_199_203_154_141)
    assert trading.features()["dev_holds_bps"] == 0


def test_the_creator_is_not_the_holder_that_concentration_means() -> None:
    trading = Trading(paid=5 * SOL)
    trading.buy("a", SOL)
    features = trading.features()
    sold = 1_073_000_000_000_000 - trading.state.virtual_tokens
    assert features["holder_of_sold_bps"] == trading.token.holders.balance("a") * 10_000 // sold
    assert features["holder_bps"] == features["dev_holds_bps"]


# What looks arranged


@pytest.mark.parametrize(
    ("at_s", "launch_buys"),
    [
        ((0, 0.02, 0.05), 3),  # the same instant as the launch
        ((0.051, 0.2), 0),
        ((0.03, 1), 1),
    ],
)
def test_purchases_in_the_instant_of_the_launch_are_a_bundle(at_s: tuple[float, ...], launch_buys: int) -> None:
    trading = Trading()
    bought = 0
    for n, second in enumerate(at_s):
        trading.buy(f"t{n}", SOL, second)
        bought += trading.token.holders.balance(f"t{n}") if second * SECOND_NS <= TOGETHER_NS else 0
    features = trading.features(2)
    assert features["launch_buys"] == launch_buys
    assert features["launch_bps"] == bought // 10**11


def test_three_purchases_in_one_instant_are_a_burst_and_two_are_none() -> None:
    trading = Trading()
    for n, second in enumerate((1, 1.01, 5, 5.01, 5.05, 5.051, 9)):
        trading.buy(f"t{n}", SOL // 10, second)
    features = trading.features(9)
    assert features["burst_buys_max"] == 3  # 5.051 is more than 50 ms after the first of them
    assert features["burst_bps"] == 3 * 10_000 // 7


def test_orders_of_one_amount_are_identical_sizes_and_different_ones_are_not() -> None:
    trading = Trading()
    for n, paid in enumerate((SOL // 10, SOL // 5, SOL // 10, SOL // 10, SOL // 3)):
        trading.buy(f"t{n}", paid)
    assert trading.features()["identical_bps"] == 4_000
    trading.buy("dev", SOL // 10)  # the creator's own do not count
    assert trading.features()["identical_bps"] == 4_000


def test_every_feature_is_an_integer_and_explained() -> None:
    from analyze import features as module

    trading = Trading()
    trading.buy("a", SOL)
    features, table = trading.features(), module.__doc__ or ""
    assert {type(value) for value in features.values()} == {int}
    for name in features:
        # One line of the table for all windows.
        assert name in table or re.sub(r"_\d+s", "_…", name) in table, f"{name} is not in the table"


@pytest.mark.parametrize(
    ("name", "symbol", "uri", "missing"),
    [("a", "b", "c", 0), (None, None, None, 3), ("", "b", "c", 1), ("a", "b", None, 1)],
)
def test_missing_metadata_is_counted(name: str | None, symbol: str | None, uri: str | None, missing: int) -> None:
    assert Trading(name=name, symbol=symbol, uri=uri).features()["missing_metadata"] == missing


def test_launches_are_counted_by_name_symbol_and_creator_within_the_time() -> None:
    counts = LaunchCounts(keep_ns=100)
    assert counts.note(created(name="Doge  King", symbol="DK"), 0) == (1, 1, 1)
    assert counts.note(created(name="dogeKING", symbol="dk ", creator="other"), 50) == (2, 2, 1)
    assert counts.note(created(name=None, symbol="", creator="dev"), 99) == (0, 0, 2)
    assert counts.note(created(name="doge king", symbol="X"), 100) == (2, 1, 2)  # the first one is 100 old: forgotten
    assert counts.note(created(name="doge king", symbol="X"), 10_000) == (1, 1, 1)


def test_launches_are_bounded_and_forgotten_ones_leave_nothing() -> None:
    counts = LaunchCounts(keep_ns=10**9, launches_max=10)
    for n in range(1000):
        assert counts.note(created(name=f"n{n}", symbol="S", creator=f"c{n}"), n).symbol == min(n + 1, 10)
    assert len(counts) == 10
    assert len(counts._counts) == 21
