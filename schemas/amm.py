"""PumpSwap pools in integers: fee tiers, quotes in both directions, the pool at migration.

Formulas: pump-fun/pump-public-docs; equal to `@pump-fun/pump-swap-sdk` 1.20.0 on its vectors, and to a real buy of a
boosted pool. Units: lamports, base units, bps. B base, Q quote, V virtual quote, eff = Q + V, Sum = the three fees,
each rounded up:

    quote in q   e = q * 10000 // (10000 + bps) ; less what e + Sum(e) exceeds q ; i = e - 1 ; base = B * i // (eff + i)
    base out b   x = ceil(eff * b / (B - b)) ; total = x + Sum(x)
    base in b    x = eff * b // (B + b) ; out = x - Sum(x) ; the real Q must cover x - lp fee

A buy for q lamports pays the price of the base units that it gets (base out), not q; as x is at most i, it is below q.
The liquidity providers' fee stays in the pool.
"""

from __future__ import annotations

from bisect import bisect_right
from math import isqrt
from typing import Final

import msgspec

from schemas.curve import SUPPLY_TOKENS, fee
from schemas.events import Side
from schemas.money import BPS, ceil_div


class Fees(msgspec.Struct, frozen=True, gc=False):
    """lp + protocol + creator, each charged and rounded up by itself."""

    lp_bps: int
    protocol_bps: int
    creator_bps: int

    @property
    def bps(self) -> int:
        return self.lp_bps + self.protocol_bps + self.creator_bps


class Pool(msgspec.Struct, frozen=True, gc=False):
    """A pool's reserves. virtual_lamports: priced like quote but cannot be paid out; 0 in a classic pool."""

    base_tokens: int
    quote_lamports: int
    virtual_lamports: int = 0


class Swap(msgspec.Struct, frozen=True, gc=False):
    """One trade against a pool.

    curve_lamports: what really enters (buy) or leaves (sell) the reserves, so with the lp fee, which stays inside.
    lp_fee_lamports: the part of it, or of what is kept back, that belongs to the liquidity providers.
    lamports: paid in all (buy: curve + protocol + creator fee), received in all (sell: curve - protocol - creator).
    """

    tokens: int
    curve_lamports: int
    lp_fee_lamports: int
    protocol_fee_lamports: int
    creator_fee_lamports: int
    lamports: int
    after: Pool


# A canonical pool at migration, from 85,005,359,057 lamports of the curve less the migration fee of 15,000,001.
# A boosted pool (since about mid-2026) splits nearly the same quote into 67,407,342,208 real and 17,584,505,288
# virtual lamports; its price at migration is equal to 0.002 percent.
AT_MIGRATION: Final = Pool(206_900_000_000_000, 84_990_359_056)
PRODUCT_AT_MIGRATION: Final = AT_MIGRATION.base_tokens * AT_MIGRATION.quote_lamports

# From market cap in lamports: fees of canonical pools quoted in SOL. Mainnet FeeConfig of 2026-09-08, account
# 5PHirr8joyTMp9JMm6nW7hNDVyEYdkzDqazxPD7RaTjx, slot 445186127, as in @pump-fun/pump-swap-sdk 1.20.0 (MIT).
SOL_TIERS: Final[tuple[tuple[int, Fees], ...]] = (
    (0, Fees(2, 93, 30)),
    (420_000_000_000, Fees(20, 5, 95)),
    (1_470_000_000_000, Fees(20, 5, 90)),
    (2_460_000_000_000, Fees(20, 5, 85)),
    (3_440_000_000_000, Fees(20, 5, 80)),
    (4_420_000_000_000, Fees(20, 5, 75)),
    (9_820_000_000_000, Fees(20, 5, 70)),
    (14_740_000_000_000, Fees(20, 5, 65)),
    (19_650_000_000_000, Fees(20, 5, 60)),
    (24_560_000_000_000, Fees(20, 5, 55)),
    (29_470_000_000_000, Fees(20, 5, 50)),
    (34_380_000_000_000, Fees(20, 5, 45)),
    (39_300_000_000_000, Fees(20, 5, 40)),
    (44_210_000_000_000, Fees(20, 5, 35)),
    (49_120_000_000_000, Fees(20, 5, 30)),
    (54_030_000_000_000, Fees(20, 5, 28)),
    (58_940_000_000_000, Fees(20, 5, 25)),
    (63_860_000_000_000, Fees(20, 5, 23)),
    (68_770_000_000_000, Fees(20, 5, 20)),
    (73_681_000_000_000, Fees(20, 5, 18)),
    (78_590_000_000_000, Fees(20, 5, 15)),
    (83_500_000_000_000, Fees(20, 5, 13)),
    (88_400_000_000_000, Fees(20, 5, 10)),
    (93_330_000_000_000, Fees(20, 5, 8)),
    (98_240_000_000_000, Fees(20, 5, 5)),
)
_THRESHOLDS: Final = tuple(threshold for threshold, _ in SOL_TIERS)

# Any other pool of the program: flat, whatever the market cap. Same source.
NON_CANONICAL_FEES: Final = Fees(25, 5, 0)


def market_cap_lamports(pool: Pool) -> int:
    """Supply (1 billion tokens) times price, rounded down."""
    return (pool.quote_lamports + pool.virtual_lamports) * SUPPLY_TOKENS // pool.base_tokens


def fees_of(pool: Pool) -> Fees:
    """A canonical SOL pool's fees: the tier with the last threshold that its market cap reaches."""
    return SOL_TIERS[bisect_right(_THRESHOLDS, market_cap_lamports(pool)) - 1][1]


def net_quote(spend_lamports: int, fees: Fees) -> int:
    """What of an amount is left for the swap when the fees on it are paid out of it; never negative."""
    net = spend_lamports * BPS // (BPS + fees.bps)
    excess = net + sum(_charged(net, fees)) - spend_lamports
    return max(0, net - max(0, excess))


def quote_buy_sol(pool: Pool, spend_lamports: int, fees: Fees | None = None) -> Swap:
    """Buy for at most `spend_lamports`, fees included. fees: None takes the tier of the pool's market cap.

    Raises ValueError for a negative amount.
    """
    _require_amount(spend_lamports)
    fees = fees or fees_of(pool)
    net = max(0, net_quote(spend_lamports, fees) - 1)
    return quote_buy_tokens(pool, pool.base_tokens * net // (_effective(pool) + net), fees)


def quote_buy_tokens(pool: Pool, tokens: int, fees: Fees | None = None) -> Swap:
    """Buy exactly `tokens`. Raises ValueError for a negative amount, and for as much as the pool holds or more."""
    _require_amount(tokens)
    if tokens >= pool.base_tokens:
        raise ValueError(f"{tokens} base units of a pool that holds {pool.base_tokens}")
    net = ceil_div(_effective(pool) * tokens, pool.base_tokens - tokens)
    lp, protocol, creator = _charged(net, fees or fees_of(pool))
    after = Pool(pool.base_tokens - tokens, pool.quote_lamports + net + lp, pool.virtual_lamports)
    return Swap(tokens, net + lp, lp, protocol, creator, net + lp + protocol + creator, after)


def quote_sell(pool: Pool, tokens: int, fees: Fees | None = None) -> Swap | None:
    """Sell exactly `tokens`; None where the pool's real quote does not cover the sale (a drained boosted pool).

    `lamports` is 0 where the fees take the whole; they never take more. Raises ValueError for a negative amount.
    """
    _require_amount(tokens)
    gross = _effective(pool) * tokens // (pool.base_tokens + tokens)
    lp, protocol, creator = _charged(gross, fees or fees_of(pool))
    lp = min(lp, gross)
    protocol = min(protocol, gross - lp)
    creator = min(creator, gross - lp - protocol)
    if gross - lp > pool.quote_lamports:
        return None
    after = Pool(pool.base_tokens + tokens, pool.quote_lamports - gross + lp, pool.virtual_lamports)
    return Swap(tokens, gross - lp, lp, protocol, creator, gross - lp - protocol - creator, after)


def canonical(base_tokens: int, quote_lamports: int) -> Pool:
    """A canonical pool from the reserves that a venue shows, which may leave the virtual quote out.

    Its liquidity cannot be withdrawn and fees only add to it, so B * (Q + V) is never below the product at migration:
    what the shown quote lacks for that is virtual. A lower bound of the price, exact but for the fees earned since.
    """
    return Pool(base_tokens, quote_lamports, max(0, ceil_div(PRODUCT_AT_MIGRATION, base_tokens) - quote_lamports))


def after_trade(side: Side, tokens: int, lamports: int) -> Pool:
    """A canonical pool right after a trade of which only the amounts are known (both positive).

    The product at migration and the average price lamports / tokens fix the base afterwards: a buy gives
    B * (B + tokens) = product * tokens / lamports, a sale B * (B - tokens) = the same. Good to the fees earned since
    migration (20 bps of the volume at most) and to one lamport in the trade's own; all quote is shown as real.
    """
    constant = PRODUCT_AT_MIGRATION * tokens // lamports
    root = isqrt(tokens * tokens + 4 * constant)
    base = max(1, (root - tokens if side is Side.BUY else root + tokens) // 2)
    return Pool(base, PRODUCT_AT_MIGRATION // base)


def _effective(pool: Pool) -> int:
    return pool.quote_lamports + pool.virtual_lamports


def _charged(lamports: int, fees: Fees) -> tuple[int, int, int]:
    return fee(lamports, fees.lp_bps), fee(lamports, fees.protocol_bps), fee(lamports, fees.creator_bps)


def _require_amount(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"a negative amount: {amount}")
