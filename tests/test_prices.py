"""bots/prices.py: the latest market of each mint, and nothing invented."""

from typing import Any

import pytest

from bots.prices import Feed, Price, Prices, of_market
from schemas import amm, curve
from schemas.amm import AT_MIGRATION, Pool
from schemas.curve import FRESH, Curve
from schemas.events import (
    FeedGap,
    Market,
    Quote,
    Side,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
)

MARKET = Market(virtual_lamports=31_000_000_000, virtual_tokens=1_038_387_096_774_193, seen_at_ns=5)


def created(mint: str = "M", at_ns: int = 1, **changes: Any) -> TokenCreated:
    fields: dict[str, Any] = {
        "id": f"c{mint}{at_ns}", "mint": mint, "signature": "s", "creator": "w", "pool": "pump", "name": None,
        "symbol": None, "uri": None, "dev_buy_tokens": 0, "dev_buy_lamports": 0,
        "market": Market(virtual_lamports=FRESH.virtual_lamports, virtual_tokens=FRESH.virtual_tokens, seen_at_ns=1),
        "quote": Quote.SOL, "mayhem": False, "seen_at_ns": at_ns,
    }  # fmt: skip
    return TokenCreated(**{**fields, **changes})


def traded(mint: str = "M", at_ns: int = 5, **changes: Any) -> TokenTraded:
    fields: dict[str, Any] = {
        "id": f"t{mint}{at_ns}", "mint": mint, "signature": "s", "side": Side.BUY, "trader": "w", "pool": "pump",
        "lamports": 1_000_000_000, "tokens": 34_612_903_225_807, "trader_tokens_after": None, "market": MARKET,
        "pool_lamports": None, "pool_tokens": None, "seen_at_ns": at_ns,
    }  # fmt: skip
    return TokenTraded(**{**fields, **changes})


def pool_trade(at_ns: int = 9, **changes: Any) -> TokenTraded:
    return traded(at_ns=at_ns, **{"pool": "pump-amm", "market": None, **changes})


def migrated(mint: str = "M", at_ns: int = 7, pool: str = "pump-amm") -> TokenMigrated:
    return TokenMigrated(id=f"m{mint}{at_ns}", mint=mint, signature="s", pool=pool, seen_at_ns=at_ns)


def after(*events: TokenEvent) -> Price | None:
    prices = Prices()
    for event in events:
        prices.apply(event)
    return prices.get("M")


ON_CURVE = Curve(31_000_000_000, 1_038_387_096_774_193, 758_487_096_774_193)
GIVEN = {"pool_tokens": 200_000_000_000_000, "pool_lamports": 90_000_000_000}


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([created()], FRESH),
        ([created(), traded()], ON_CURVE),
        ([traded()], ON_CURVE),  # created before we listened
        ([traded(), created()], ON_CURVE),  # the creation comes late: its curve is the older one
        ([created(), traded(), migrated()], AT_MIGRATION),
        ([migrated(), created()], AT_MIGRATION),  # insta-bonded, migration heard first
        ([created(), migrated(), traded(at_ns=8)], AT_MIGRATION),  # a straggler from the curve
        ([created(), migrated(), pool_trade(**GIVEN)], Pool(200_000_000_000_000, 90_000_000_000)),
        ([created(), migrated(), pool_trade(pool="", **GIVEN)], Pool(200_000_000_000_000, 90_000_000_000)),
        ([created(), migrated(), pool_trade(lamports=900)], AT_MIGRATION),  # dust says nothing
        ([created(), migrated(), pool_trade(lamports=None)], AT_MIGRATION),
        ([pool_trade(**GIVEN)], Pool(200_000_000_000_000, 90_000_000_000)),  # migration missed
        ([created(mayhem=True), traded()], ON_CURVE),
        # nothing may be invented here:
        ([migrated()], None),  # never seen
        ([created(mayhem=True), migrated()], None),  # another amount of tokens goes into its pool
        ([created(mayhem=True), migrated(), pool_trade()], None),
        ([created(quote=Quote.USDC), traded(pool="pump")], None),
        ([created(market=None, pool="bonk")], None),
        ([created(market=None, pool="bonk"), pool_trade(pool="bonk", **GIVEN)], None),  # another program's pool
        ([created(), migrated(pool="raydium")], None),
        ([created(), migrated(pool="raydium"), pool_trade(pool="", **GIVEN)], None),
    ],
)
def test_the_state_is_what_the_events_say_and_no_more(events: list[TokenEvent], state: object) -> None:
    price = after(*events)
    assert price is not None
    assert price.state == state


def test_a_trade_without_reserves_moves_the_pool_by_its_amounts() -> None:
    swap = amm.quote_buy_sol(AT_MIGRATION, 5_000_000_000)
    price = after(created(), migrated(), pool_trade(tokens=swap.tokens, lamports=swap.curve_lamports))
    assert price is not None
    assert isinstance(price.state, Pool)
    assert abs(price.state.base_tokens - swap.after.base_tokens) * 1000 < swap.after.base_tokens
    assert price.seen_at_ns == 9


def test_a_shown_reserve_of_a_boosted_pool_gets_its_virtual_quote_back() -> None:
    price = after(created(), migrated(), pool_trade(pool_tokens=AT_MIGRATION.base_tokens, pool_lamports=67_407_342_208))
    assert price is not None
    assert price.state == Pool(AT_MIGRATION.base_tokens, 67_407_342_208, 17_583_016_848)


def test_the_first_migration_heard_is_when_it_migrated() -> None:
    price = after(created(), migrated(at_ns=7), migrated(at_ns=8), pool_trade(at_ns=9, **GIVEN))
    assert price is not None
    assert (price.migrated_at_ns, price.seen_at_ns) == (7, 9)


def test_a_trade_in_the_pool_tells_of_a_missed_migration() -> None:
    price = after(created(), pool_trade(at_ns=9, **GIVEN))
    assert price is not None
    assert price.migrated_at_ns == 9


def test_a_curve_without_tokens_is_complete_before_its_migration_is_heard() -> None:
    market = Market(
        virtual_lamports=curve.COMPLETE_VIRTUAL_LAMPORTS, virtual_tokens=curve.COMPLETE_VIRTUAL_TOKENS, seen_at_ns=5
    )
    price = after(created(), traded(market=market))
    assert price is not None
    assert price.state == curve.COMPLETE
    assert price.migrated_at_ns is None


def test_an_event_that_changes_nothing_is_no_new_price() -> None:
    prices = Prices()
    assert prices.apply(created()) == of_market("M", created().market or MARKET)
    assert prices.apply(FeedGap(id="g", feed="f", reason="r", from_at_ns=1, seen_at_ns=2)) is None
    assert prices.apply(traded(market=None, pool="")) is None
    assert prices.apply(traded("X", market=None, pool="bonk")) is None
    assert prices.get("X") is None


def test_the_longest_unseen_mint_is_forgotten_first() -> None:
    prices = Prices(mints_max=2)
    for event in (created("A"), created("B"), traded("A"), created("C")):
        prices.apply(event)
    assert [mint for mint in "ABC" if prices.get(mint)] == ["A", "C"]
    assert len(prices) == 2


def test_a_held_mint_is_never_forgotten_until_it_is_released() -> None:
    prices = Prices(mints_max=2)
    prices.apply(created("H"))
    prices.hold("H")
    prices.hold("later")  # held before anything is known of it
    for number in range(10):
        prices.apply(created(f"X{number}"))
    assert prices.get("H") is not None
    prices.apply(traded("H"))
    prices.apply(traded("later"))
    held, later = prices.get("H"), prices.get("later")
    assert held is not None
    assert later is not None
    assert held.state == later.state == ON_CURVE
    prices.release("H")
    prices.release("H")
    assert prices.get("H") == held
    for number in range(2):
        prices.apply(created(f"Y{number}"))
    assert prices.get("H") is None
    assert prices.get("later") == later


LATER = Market(virtual_lamports=32_000_000_000, virtual_tokens=1_005_937_500_000_000, seen_at_ns=6)


@pytest.mark.parametrize(
    ("events", "ordinary", "state", "seen_at"),
    [
        ([], True, curve.from_market(LATER), 6),  # the trade that was signalled has not reached us yet
        ([created()], True, curve.from_market(LATER), 6),
        ([created(), traded(at_ns=5)], True, curve.from_market(LATER), 6),
        ([created(), traded(at_ns=6)], True, ON_CURVE, 6),  # not newer than what we heard
        ([created(), migrated(at_ns=3)], True, AT_MIGRATION, 3),  # it left its curve
        ([created(quote=Quote.USDC)], True, None, 1),  # no curve prices it
        ([migrated()], True, None, 7),
    ],
)
def test_a_signal_s_own_market_is_taken_where_it_is_newer(
    events: list[TokenEvent], ordinary: bool, state: object, seen_at: int
) -> None:
    prices = Prices()
    for event in events:
        prices.apply(event)
    price = prices.learn("M", LATER, ordinary=ordinary)
    assert (price.state, price.seen_at_ns) == (state, seen_at)
    assert prices.get("M") == price


def test_a_price_that_was_learned_first_is_no_more_ordinary_than_the_signal_said() -> None:
    prices = Prices()
    assert not prices.learn("M", LATER, ordinary=False).ordinary
    prices.apply(migrated(at_ns=9))
    price = prices.get("M")
    assert price is not None
    assert price.state is None  # the pool of a coin with another arithmetic is not derived


def test_an_alarm_stays_with_the_coin_through_everything_that_follows() -> None:
    prices = Prices()
    assert prices.alarm("M", 2) is None  # nobody knows it
    prices.hold("M")
    assert prices.alarm("M", 2) == Price(mint="M", state=None, seen_at_ns=0, alarmed_at_ns=2)
    for event in (created(), traded(at_ns=5), migrated(at_ns=7), pool_trade(at_ns=9, **GIVEN)):
        price = prices.apply(event)
        assert price is not None
        assert price.alarmed_at_ns == 2
    assert prices.alarm("M", 1) is None  # an older one says nothing new
    newer = prices.alarm("M", 10)
    assert newer is not None
    assert (newer.alarmed_at_ns, newer.seen_at_ns) == (10, 9)  # no price was heard by it


def test_the_feed_is_heard_by_every_event_and_begins_anew_after_a_gap() -> None:
    prices = Prices()
    assert prices.feed == Feed(since_at_ns=0, heard_at_ns=0)
    prices.apply(created("X", at_ns=3))
    prices.apply(traded(at_ns=2))  # the stream's order counts, not a clock: time does not go back
    assert prices.feed == Feed(since_at_ns=0, heard_at_ns=3)
    prices.apply(FeedGap(id="g", feed="f", reason="r", from_at_ns=4, seen_at_ns=9))
    assert prices.feed == Feed(since_at_ns=9, heard_at_ns=9)
    prices.apply(traded(market=None, pool="", at_ns=12))  # says nothing of a price, and was heard all the same
    assert prices.feed == Feed(since_at_ns=9, heard_at_ns=12)
