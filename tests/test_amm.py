"""schemas/amm.py: equal to the SDK's figures and to a real trade; the pool never loses."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import amm
from schemas.amm import AT_MIGRATION, Fees, Pool, quote_buy_sol, quote_buy_tokens, quote_sell
from schemas.events import Side

TIERS_FILE = Path(__file__).parents[2] / "shared/data/pumpswap_fee_tiers_mainnet_2026-09-08.json"

X4 = Pool(103_450_000_000_000, 169_980_718_112)
BOOSTED_REAL = Pool(8_219_230_553_681, 2_126_185_397_795, 17_584_505_288)
BOOSTED_AT_MIGRATION = Pool(206_900_000_000_000, 67_407_342_208, 17_584_505_288)

pools = st.builds(
    Pool, st.integers(10**9, 10**15), st.integers(10**6, 10**14), st.sampled_from([0, 17_554_251_914, 17_584_505_288])
)
spends = st.integers(0, 10**12)


def product(pool: Pool) -> int:
    return pool.base_tokens * (pool.quote_lamports + pool.virtual_lamports)


@pytest.mark.parametrize(
    ("pool", "spend", "tokens"),
    [
        (AT_MIGRATION, 100_000_000, 240_154_865_663),
        (AT_MIGRATION, 10_000_000_000, 21_540_249_981_480),
        (X4, 100_000_000, 60_132_937_341),
        (BOOSTED_REAL, 100_000_000, 382_236_233),
        (AT_MIGRATION, 0, 0),
        (AT_MIGRATION, 2, 0),  # fees of three lamports at least
    ],
)
def test_an_amount_buys_the_sdk_s_tokens(pool: Pool, spend: int, tokens: int) -> None:
    assert quote_buy_sol(pool, spend).tokens == tokens


def test_a_real_purchase_cost_exactly_what_was_paid() -> None:
    # Slot 436909298; the reserves before it stand for the vector's state of the same pool and slot.
    swap = quote_buy_tokens(BOOSTED_REAL, 26_757_683)
    assert swap.lamports == 6_999_999
    assert quote_buy_sol(BOOSTED_REAL, 6_999_999).tokens == 26_757_679


def test_a_million_tokens_at_migration_return_the_worked_number() -> None:
    swap = quote_sell(AT_MIGRATION, 1_000_000_000_000)
    assert swap is not None
    assert (swap.curve_lamports + swap.lp_fee_lamports, swap.lamports) == (408_804_035, 403_693_983)


@pytest.mark.parametrize(
    ("pool", "cap_lamports", "fees"),
    [
        (AT_MIGRATION, 410_779_889_105, Fees(2, 93, 30)),
        (X4, 1_643_119_556_423, Fees(20, 5, 90)),
        (BOOSTED_REAL, 260_823_673_101_967, Fees(20, 5, 5)),  # the virtual quote counts
        (Pool(10**15, 419_999_999_999), 419_999_999_999, Fees(2, 93, 30)),  # the last lamport below a threshold
        (Pool(10**15, 420_000_000_000), 420_000_000_000, Fees(20, 5, 95)),  # and the threshold itself
    ],
)
def test_the_tier_is_the_last_threshold_reached(pool: Pool, cap_lamports: int, fees: Fees) -> None:
    assert amm.market_cap_lamports(pool) == cap_lamports
    assert amm.fees_of(pool) == fees


def test_the_tiers_equal_the_published_table() -> None:
    if not TIERS_FILE.exists():
        pytest.skip("the published fee table is not beside the repository")
    published = json.loads(TIERS_FILE.read_bytes())
    ours = [[threshold, fees.lp_bps, fees.protocol_bps, fees.creator_bps] for threshold, fees in amm.SOL_TIERS]
    assert ours == published["sol_tiers"]
    flat = amm.NON_CANONICAL_FEES
    assert [flat.lp_bps, flat.protocol_bps, flat.creator_bps] == published["flat_fees_non_canonical"]


def test_a_drained_boosted_pool_takes_no_sale_that_it_cannot_pay() -> None:
    # 1.23 SOL real were seen in one: the price says more than is there.
    drained = Pool(500_000_000_000_000, 1_230_000_000, 17_584_505_288)
    assert quote_sell(drained, 100_000_000_000_000) is None
    assert quote_sell(drained, 1_000_000_000_000) is not None


def test_a_pool_cannot_be_emptied() -> None:
    with pytest.raises(ValueError, match="holds"):
        quote_buy_tokens(AT_MIGRATION, AT_MIGRATION.base_tokens)


def test_reserves_without_the_virtual_quote_get_it_back() -> None:
    shown = amm.canonical(BOOSTED_AT_MIGRATION.base_tokens, BOOSTED_AT_MIGRATION.quote_lamports)
    assert shown.quote_lamports == BOOSTED_AT_MIGRATION.quote_lamports
    assert shown.quote_lamports + shown.virtual_lamports == AT_MIGRATION.quote_lamports
    # A classic pool, which has earned fees, has nothing virtual.
    assert amm.canonical(AT_MIGRATION.base_tokens, AT_MIGRATION.quote_lamports + 5) == Pool(
        AT_MIGRATION.base_tokens, AT_MIGRATION.quote_lamports + 5
    )


@given(st.integers(1_000_000, 50_000_000_000), st.integers(1, 100))
def test_a_trade_s_amounts_give_the_pool_after_it_to_a_thousandth(spend: int, percent: int) -> None:
    bought = quote_buy_sol(AT_MIGRATION, spend)
    guess = amm.after_trade(Side.BUY, bought.tokens, bought.curve_lamports - bought.lp_fee_lamports)
    assert abs(guess.base_tokens - bought.after.base_tokens) * 1000 < bought.after.base_tokens
    assert abs(guess.quote_lamports - bought.after.quote_lamports) * 1000 < bought.after.quote_lamports
    sold = quote_sell(bought.after, bought.tokens * percent // 100)
    assert sold is not None
    gross = sold.curve_lamports + sold.lp_fee_lamports
    if gross > 1_000_000:
        guess = amm.after_trade(Side.SELL, sold.tokens, gross)
        assert abs(guess.base_tokens - sold.after.base_tokens) * 1000 < sold.after.base_tokens


@given(pools, spends)
def test_a_buy_never_costs_more_than_the_amount_and_adds_up(pool: Pool, spend: int) -> None:
    swap = quote_buy_sol(pool, spend)
    assert 0 <= swap.lamports <= spend
    assert swap.lamports == swap.curve_lamports + swap.protocol_fee_lamports + swap.creator_fee_lamports
    assert swap.after.quote_lamports == pool.quote_lamports + swap.curve_lamports
    assert product(swap.after) >= product(pool)


@given(pools, st.integers(0, 10**15))
def test_a_sale_adds_up_and_never_lowers_the_product(pool: Pool, tokens: int) -> None:
    swap = quote_sell(pool, tokens)
    if swap is None:
        return
    assert swap.lamports == swap.curve_lamports - swap.protocol_fee_lamports - swap.creator_fee_lamports >= 0
    assert swap.after.quote_lamports == pool.quote_lamports - swap.curve_lamports >= 0
    assert product(swap.after) >= product(pool)


@given(pools, spends)
def test_a_round_trip_never_gains(pool: Pool, spend: int) -> None:
    bought = quote_buy_sol(pool, spend)
    back = quote_sell(bought.after, bought.tokens)
    assert back is None or back.lamports <= bought.lamports
