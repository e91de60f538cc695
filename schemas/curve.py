"""The pump.fun bonding curve in integers: constants, fees, quotes and the state after a trade.

Formulas and constants: pump-fun/pump-public-docs; equal to `@pump-fun/pump-sdk` 2.0.0 on its vectors, and to real
trades on chain. Units: lamports (1e-9 SOL), base units (1e-6 token), bps (1/10,000).

Every rounding goes against the trader, so the product of the virtual reserves never falls:

    fee         ceil(lamports * bps / 10000), protocol and creator each by itself
    buy tokens  cost = tokens * vs // (vt - tokens) + 1
    buy for S   net = (S - 1) * 10000 // 10125 ; tokens = min(net * vt // (vs + net), real) ; cost as above, at most net
    sell        gross = tokens * vs // (vt + tokens)

A buy for S lamports pays the cost of the tokens that it gets, not S: what S would buy in fractions stays with the
trader. `cost` exceeds `net` only where the division leaves no remainder; `net` is then the exact price, and is paid.
It never costs more than S, because each of the two fees is less than one lamport above its exact share and the
formula sets one lamport aside (the exact total is below S - 1 + 2, and an integer).

On chain, `buy_exact_quote_in` computes with net - 1; the SDK, the vectors and this module with net.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.events import Market
from schemas.money import BPS, ceil_div

INITIAL_VIRTUAL_LAMPORTS: Final = 30_000_000_000
INITIAL_VIRTUAL_TOKENS: Final = 1_073_000_000_000_000
INITIAL_REAL_TOKENS: Final = 793_100_000_000_000
SUPPLY_TOKENS: Final = 1_000_000_000_000_000

# What is left of the virtual tokens when the last real one is sold (ordinary coins; mayhem coins differ).
COMPLETE_VIRTUAL_TOKENS: Final = INITIAL_VIRTUAL_TOKENS - INITIAL_REAL_TOKENS
COMPLETE_VIRTUAL_LAMPORTS: Final = 115_005_359_057

PROTOCOL_FEE_BPS: Final = 95
CREATOR_FEE_BPS: Final = 30
_WITH_FEES_BPS: Final = BPS + PROTOCOL_FEE_BPS + CREATOR_FEE_BPS


class Curve(msgspec.Struct, frozen=True, gc=False):
    """A curve's reserves. real_tokens: those still for sale; 0 means complete (it migrates, and trades no more)."""

    virtual_lamports: int
    virtual_tokens: int
    real_tokens: int

    @property
    def complete(self) -> bool:
        return self.real_tokens == 0


FRESH: Final = Curve(INITIAL_VIRTUAL_LAMPORTS, INITIAL_VIRTUAL_TOKENS, INITIAL_REAL_TOKENS)
COMPLETE: Final = Curve(COMPLETE_VIRTUAL_LAMPORTS, COMPLETE_VIRTUAL_TOKENS, 0)


class Swap(msgspec.Struct, frozen=True, gc=False):
    """One trade against a curve.

    curve_lamports: into the reserves (buy) or out of them (sell).
    lamports: paid in all (buy: curve + both fees), or received in all (sell: curve - both fees).
    after: the curve afterwards. A buy too small for one base unit has 0 everywhere and leaves the curve as it was; a
        sale too small for one lamport still hands over its tokens.
    """

    tokens: int
    curve_lamports: int
    protocol_fee_lamports: int
    creator_fee_lamports: int
    lamports: int
    after: Curve


def from_market(market: Market) -> Curve:
    """Virtual reserves alone -> a curve, for ordinary coins: real = virtual - 279.9 million tokens, at least 0."""
    real = max(0, market.virtual_tokens - COMPLETE_VIRTUAL_TOKENS)
    return Curve(market.virtual_lamports, market.virtual_tokens, real)


def fee(lamports: int, bps: int) -> int:
    """`bps` of an amount, rounded up, as each fee is charged."""
    return ceil_div(lamports * bps, BPS)


def cost_of(curve: Curve, tokens: int) -> int:
    """Lamports into the reserves for exactly `tokens` (0 <= tokens < virtual tokens), before fees; 0 for none."""
    return tokens * curve.virtual_lamports // (curve.virtual_tokens - tokens) + 1 if tokens else 0


def quote_buy_sol(curve: Curve, spend_lamports: int) -> Swap:
    """Buy for at most `spend_lamports`, fees included. The last tokens for sale complete the curve.

    Raises ValueError for a negative amount.
    """
    _require_amount(spend_lamports)
    if spend_lamports < 2:
        return _bought(curve, 0, 0)
    net = (spend_lamports - 1) * BPS // _WITH_FEES_BPS
    tokens = min(net * curve.virtual_tokens // (curve.virtual_lamports + net), curve.real_tokens)
    return _bought(curve, tokens, min(cost_of(curve, tokens), net))


def quote_buy_tokens(curve: Curve, tokens: int) -> Swap:
    """Buy exactly `tokens`, or those still for sale where that is fewer. Raises ValueError for a negative amount."""
    _require_amount(tokens)
    tokens = min(tokens, curve.real_tokens)
    return _bought(curve, tokens, cost_of(curve, tokens))


def quote_sell(curve: Curve, tokens: int) -> Swap:
    """Sell exactly `tokens`. `lamports` is 0 where the fees take the whole (they never take more than there is).

    Raises ValueError for a negative amount.
    """
    _require_amount(tokens)
    gross = tokens * curve.virtual_lamports // (curve.virtual_tokens + tokens)
    protocol_fee = min(fee(gross, PROTOCOL_FEE_BPS), gross)
    creator_fee = min(fee(gross, CREATOR_FEE_BPS), gross - protocol_fee)
    after = Curve(curve.virtual_lamports - gross, curve.virtual_tokens + tokens, curve.real_tokens + tokens)
    return Swap(tokens, gross, protocol_fee, creator_fee, gross - protocol_fee - creator_fee, after)


def market_cap_lamports(curve: Curve) -> int:
    """Supply times price, rounded down."""
    return curve.virtual_lamports * SUPPLY_TOKENS // curve.virtual_tokens


def progress_bps(curve: Curve) -> int:
    """Share of the real tokens sold, 0 to 10,000, rounded down; by virtual tokens, for ordinary coins."""
    sold = INITIAL_VIRTUAL_TOKENS - curve.virtual_tokens
    return max(0, min(BPS, sold * BPS // INITIAL_REAL_TOKENS))


def _bought(curve: Curve, tokens: int, cost: int) -> Swap:
    if tokens == 0:
        return Swap(0, 0, 0, 0, 0, curve)
    protocol_fee = fee(cost, PROTOCOL_FEE_BPS)
    creator_fee = fee(cost, CREATOR_FEE_BPS)
    after = Curve(curve.virtual_lamports + cost, curve.virtual_tokens - tokens, curve.real_tokens - tokens)
    return Swap(tokens, cost, protocol_fee, creator_fee, cost + protocol_fee + creator_fee, after)


def _require_amount(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"a negative amount: {amount}")
