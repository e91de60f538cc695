"""analyze/features.py and analyze/memory.py: what is known of a token, in bounded memory."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.features import BUYERS_MAX, FLOW_SECONDS_MAX, SECOND_NS, Flow, Launches, Token, known_arithmetic
from analyze.memory import EarlyMigrations, EventIds, LaunchCounts
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
        return self.token.features(START + int(after_s * SECOND_NS), gap_seen)


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
    ("changes", "known"),
    [
        ({}, True),
        ({"pool": ""}, True),  # 2024 schema
        ({"mayhem": True}, False),
        ({"quote": Quote.USDC}, False),
        ({"quote": Quote.UNKNOWN}, False),
        ({"pool": "bonk"}, False),
        ({"market": None}, False),
    ],
)
def test_arithmetic_is_known_for_ordinary_sol_coins_on_the_curve_only(changes: dict[str, Any], known: bool) -> None:
    event = created(**changes)
    assert known_arithmetic(event) is known
    if not known:
        with pytest.raises(ValueError, match="no arithmetic"):
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


@given(st.lists(st.tuples(st.integers(-5, 200), st.integers(-(10**12), 10**12), st.sampled_from(list(Side)))))
def test_flow_equals_a_sum_over_all_trades_in_fixed_memory(trades: list[tuple[int, int, Side]]) -> None:
    flow, plain, newest = Flow(), [], 0
    for step, net, side in trades:
        newest = max(newest, newest + step)
        flow.add((newest + min(step, 0)) * SECOND_NS, net, side)
        plain.append((newest, net, side))
    assert len(flow) <= FLOW_SECONDS_MAX
    for seconds in (10, 30):
        inside = [(net, side) for second, net, side in plain if second > newest - seconds]
        buys = sum(side is Side.BUY for _, side in inside)
        assert flow.within(seconds, newest * SECOND_NS) == (sum(n for n, _ in inside), buys, len(inside) - buys)


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


def test_an_event_id_is_known_for_its_time_and_older_events_are_repetitions() -> None:
    ids = EventIds(keep_ns=100)
    assert not ids.repeated("a", 0, 0)
    assert ids.repeated("a", 0, 50)
    assert ids.repeated("a", 100, 100)
    assert not ids.repeated("b", 101, 101)
    assert ids.repeated("c", 0, 101)  # older than the memory: a first delivery is never this late
    assert not ids.repeated("a", 202, 202)  # forgotten


def test_event_ids_are_bounded_and_what_is_forgotten_early_is_still_a_repetition() -> None:
    ids = EventIds(keep_ns=10**9, ids_max=10)
    for n in range(100):
        assert not ids.repeated(str(n), n, n)
    assert len(ids) <= 11
    assert all(ids.repeated(str(n), n, 100) for n in range(100))


def test_early_migrations_are_bounded_by_number_and_time() -> None:
    early = EarlyMigrations(keep_ns=100, migrations_max=3)
    for n in range(5):
        early.note(f"m{n}", n)
    assert len(early) == 3
    assert not early.take("m0", 5)
    assert early.take("m4", 5)
    assert not early.take("m4", 5)
    assert not early.take("m3", 104)
