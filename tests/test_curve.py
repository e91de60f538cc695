"""schemas/curve.py: equal to the SDK's vectors and to worked numbers, and never in the trader's favour."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import curve
from schemas.curve import COMPLETE, FRESH, Curve, quote_buy_sol, quote_buy_tokens, quote_sell
from schemas.events import Market

MID_REAL = Curve(36_188_261_779, 889_514_954_991_884, 609_614_954_991_884)
NEAR_COMPLETE = Curve(114_000_000_000, 282_368_421_052_631, 2_468_421_052_631)

# A state after some honest buying: the SOL that went in moves an ordinary curve along.
states = st.integers(0, 90_000_000_000).map(lambda spent: quote_buy_sol(FRESH, spent).after)
open_states = states.filter(lambda state: not state.complete)
spends = st.integers(0, 200_000_000_000)
amounts = st.integers(0, 1_000_000_000_000_000)


def product(state: Curve) -> int:
    return state.virtual_lamports * state.virtual_tokens


@pytest.mark.parametrize(
    ("spend", "tokens"),
    [
        (0, 0),
        (1, 0),  # less than one lamport is left for the curve
        (10_000_000, 353_134_727_201),
        (500_000_000, 17_376_518_166_910),
        (1_000_000_000, 34_199_203_154_141),
        (5_000_000_000, 151_660_777_334_045),
        (10_000_000_000, 265_758_513_893_900),
        (100_000_000_000, 793_100_000_000_000),  # more than the curve holds: what it holds
    ],
)
def test_a_fresh_curve_sells_the_worked_numbers(spend: int, tokens: int) -> None:
    assert quote_buy_sol(FRESH, spend).tokens == tokens


@pytest.mark.parametrize(
    ("state", "tokens", "cost", "total"),
    [
        (FRESH, 50_000_000_000_000, 1_466_275_660, 1_484_604_106),
        (FRESH, 1, 1, 3),  # each fee is at least one lamport
        (MID_REAL, 793_100_000_000_000, 78_817_097_448, 79_802_311_167),  # capped at the real tokens
        (FRESH, 0, 0, 0),
    ],
)
def test_exact_tokens_cost_the_worked_numbers(state: Curve, tokens: int, cost: int, total: int) -> None:
    swap = quote_buy_tokens(state, tokens)
    assert (swap.curve_lamports, swap.lamports) == (cost, total)


@pytest.mark.parametrize(
    ("state", "tokens", "gross", "net"),
    [
        (FRESH, 1_000_000_000_000, 27_932_960, 27_583_797),
        (MID_REAL, 25_511_755_060_526, 1_008_960_788, 996_348_777),  # a real trade
        (FRESH, 1, 0, 0),
        (FRESH, 40_000, 1, 0),  # one lamport: the fees would take two, and take what there is
    ],
)
def test_a_sale_returns_the_worked_numbers(state: Curve, tokens: int, gross: int, net: int) -> None:
    swap = quote_sell(state, tokens)
    assert (swap.curve_lamports, swap.lamports) == (gross, net)


def test_one_sol_in_and_all_out_returns_what_the_handbook_says() -> None:
    bought = quote_buy_sol(FRESH, 1_000_000_000)
    assert quote_sell(bought.after, bought.tokens).lamports == 975_308_639


def test_a_sequence_of_four_trades_ends_in_the_known_state() -> None:
    first = quote_buy_sol(FRESH, 1_000_000_000)
    assert first.after == Curve(30_987_654_320, 1_038_800_796_845_859, 758_900_796_845_859)
    second = quote_buy_sol(first.after, 500_000_000)
    third = quote_sell(second.after, first.tokens)
    assert quote_buy_sol(third.after, 2_000_000_000).after == Curve(
        32_437_923_460, 992_356_987_348_064, 712_456_987_348_064
    )


def test_buying_everything_completes_the_curve_exactly() -> None:
    swap = quote_buy_tokens(FRESH, FRESH.virtual_tokens)
    assert swap.after == COMPLETE
    assert swap.after.complete
    assert (swap.curve_lamports, swap.lamports) == (85_005_359_057, 86_067_926_047)
    assert curve.market_cap_lamports(COMPLETE) // 1_000_000 == 410_880
    assert quote_buy_sol(COMPLETE, 1_000_000_000).tokens == 0


@pytest.mark.parametrize(
    ("lamports_in", "progress_percent", "cap_hundredths"),
    [
        (0, "0.00", 27_96),
        (1_000_000_000, "4.36", 29_85),
        (5_000_000_000, "19.33", 38_06),
        (10_000_000_000, "33.82", 49_70),
        (42_500_000_000, "79.31", 163_29),
        (80_000_000_000, "98.39", 375_89),
    ],
)
def test_progress_and_market_cap_follow_the_handbook(
    lamports_in: int, progress_percent: str, cap_hundredths: int
) -> None:
    lamports = FRESH.virtual_lamports + lamports_in
    tokens = product(FRESH) // lamports
    state = curve.from_market(Market(virtual_lamports=lamports, virtual_tokens=tokens, seen_at_ns=1))
    # The handbook rounds to the nearest hundredth, we round down.
    assert abs(curve.progress_bps(state) - int(progress_percent.replace(".", ""))) <= 1
    assert abs(curve.market_cap_lamports(state) // 10_000_000 - cap_hundredths) <= 1


def test_real_tokens_follow_from_the_virtual_ones() -> None:
    market = Market(virtual_lamports=MID_REAL.virtual_lamports, virtual_tokens=MID_REAL.virtual_tokens, seen_at_ns=1)
    assert curve.from_market(market) == MID_REAL
    # A mayhem coin can show fewer virtual tokens than an ordinary complete curve: nothing for sale, not less.
    drained = Market(virtual_lamports=4_000_000_000, virtual_tokens=200_000_000_000_000, seen_at_ns=1)
    assert curve.from_market(drained).real_tokens == 0


@pytest.mark.parametrize("quote", [quote_buy_sol, quote_buy_tokens, quote_sell])
def test_a_negative_amount_is_an_error(quote) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="negative"):
        quote(FRESH, -1)


@given(open_states, spends)
def test_a_buy_for_an_amount_never_costs_more_than_it(state: Curve, spend: int) -> None:
    swap = quote_buy_sol(state, spend)
    assert 0 <= swap.lamports <= spend
    assert swap.lamports == swap.curve_lamports + swap.protocol_fee_lamports + swap.creator_fee_lamports
    assert swap.after.real_tokens == state.real_tokens - swap.tokens >= 0


@given(st.integers(1, 10**13), st.integers(1, 10**16), spends)
def test_a_buy_on_any_reserves_stays_within_the_amount_and_the_product(vs: int, vt: int, spend: int) -> None:
    # Small reserves reach the case where the division leaves no remainder.
    state = Curve(vs, vt, vt - 1)
    swap = quote_buy_sol(state, spend)
    assert swap.lamports <= spend
    assert product(swap.after) >= product(state)


def test_a_price_without_remainder_is_paid_exactly() -> None:
    # net = 10 of reserves 10 x 20: exactly 10 tokens for exactly 10 lamports; the general formula would say 11.
    swap = quote_buy_sol(Curve(10, 20, 19), 12)
    assert (swap.tokens, swap.curve_lamports, swap.lamports) == (10, 10, 12)


@given(open_states, st.one_of(spends.map(lambda s: ("sol", s)), amounts.map(lambda a: ("tokens", a))))
def test_the_product_never_falls_in_a_buy_nor_in_the_sale_after_it(state: Curve, order: tuple[str, int]) -> None:
    kind, amount = order
    swap = quote_buy_sol(state, amount) if kind == "sol" else quote_buy_tokens(state, amount)
    assert product(swap.after) >= product(state)
    back = quote_sell(swap.after, swap.tokens)
    assert product(back.after) >= product(swap.after)
    # A round trip never gains, neither for the trader nor at the reserves' expense.
    assert back.curve_lamports <= swap.curve_lamports
    assert back.lamports <= swap.lamports


@given(states, amounts)
def test_a_sale_gives_exactly_gross_less_fees_and_never_less_than_nothing(state: Curve, tokens: int) -> None:
    swap = quote_sell(state, tokens)
    assert swap.lamports == swap.curve_lamports - swap.protocol_fee_lamports - swap.creator_fee_lamports
    assert min(swap.lamports, swap.curve_lamports, swap.protocol_fee_lamports, swap.creator_fee_lamports) >= 0
    assert swap.after.virtual_lamports == state.virtual_lamports - swap.curve_lamports > 0
    assert swap.after.real_tokens == state.real_tokens + tokens


@given(open_states, spends, st.integers(0, 10**9))
def test_more_money_buys_no_fewer_tokens(state: Curve, spend: int, more: int) -> None:
    assert quote_buy_sol(state, spend + more).tokens >= quote_buy_sol(state, spend).tokens


@given(open_states, amounts, st.integers(0, 10**12))
def test_more_tokens_cost_and_return_no_less(state: Curve, tokens: int, more: int) -> None:
    assert quote_buy_tokens(state, tokens + more).lamports >= quote_buy_tokens(state, tokens).lamports
    assert quote_sell(state, tokens + more).curve_lamports >= quote_sell(state, tokens).curve_lamports
