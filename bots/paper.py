"""The paper venue: an order that lands, and the market it meets -> a fill with the real fees, or a refusal.

The market is taken as it is: our own paper trades leave no trace in it. A sale is therefore priced without the SOL that
our purchase would have added, which is against us; for the same reason a curve is not asked whether others put enough
SOL into it. A pool is, as its reserves do not hang on our purchase.

An order is judged as the program would judge it when it lands:

    buy     fewer tokens than the order's floor    SLIPPAGE        6002 TooMuchSolRequired, 6042 BuySlippageBelow…
    sell    fewer lamports than the order's floor  SLIPPAGE        6003 TooLittleSolReceived
    buy     the curve is complete                  CURVE_COMPLETE  6005 BondingCurveComplete

and once the coin has migrated and its pool is known, the pool prices it. What is charged is exact:

    buy     lamports = curve_lamports + protocol_fee + creator_fee + network_fee, at most the order's
    sell    lamports = curve_lamports - protocol_fee - creator_fee - network_fee, which may be below zero

A refused order costs nothing: as when it is sent with protection against reverting, where what would fail is not
included in a block. docs/paper-trading.md has every parameter with its source, and what is left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Union

from bots.prices import Price
from schemas import amm, curve
from schemas.config import Terms
from schemas.events import Fill, Intent, Reason, Refusal, Side

# From a decision to the transaction's effect: one and a half of Solana's slots (400 ms). Assumed, not measured.
LANDING_NS_DEFAULT: Final = 600_000_000

# A purchase is not priced by a market older than this: with a signal's life (30 s) and the landing, no market that came
# with the signal is, so it only meets coins whose trades are not heard any more.
PRICE_AGE_NS_MAX: Final = 60_000_000_000

# Of every Solana transaction, for each signature; ours have one (solana.com/docs/core/fees).
BASE_FEE_LAMPORTS: Final = 5_000
SIGNATURES: Final = 1

# Users who buy for the same amount in the same market get, and later hold, the same: worked out once.
QUOTES_MAX: Final = 4096

Swap = Union[curve.Swap, amm.Swap]  # noqa: UP007


def network_fee_lamports(terms: Terms) -> int:
    """What one transaction costs, whatever it trades: the base fee, and the priority fee that the user offers."""
    return BASE_FEE_LAMPORTS * SIGNATURES + terms.priority_fee_lamports


def execute(intent: Intent, price: Price | None, fee_lamports: int, at_ns: int) -> Fill | Refusal:
    """Carry an order out against the market that it meets; None: nothing is known of it.

    fee_lamports: the network's. at_ns: when it lands.
    """
    if price is None or price.state is None:
        return _refused(intent, *_unknown(intent, price), at_ns)
    if intent.side is Side.SELL:
        return _sell(intent, price, fee_lamports, at_ns)
    age_ns = at_ns - price.seen_at_ns
    if age_ns > PRICE_AGE_NS_MAX:
        return _refused(intent, Reason.NO_PRICE, f"the last price is {age_ns // 1_000_000_000} s old", at_ns)
    return _buy(intent, price, price.state, fee_lamports, at_ns)


@lru_cache(maxsize=QUOTES_MAX)
def purchase(state: curve.Curve | amm.Pool, spend_lamports: int) -> Swap:
    """What buying for at most `spend_lamports`, the venue's fees included, gives now."""
    if isinstance(state, curve.Curve):
        return curve.quote_buy_sol(state, spend_lamports)
    return amm.quote_buy_sol(state, spend_lamports)


@lru_cache(maxsize=QUOTES_MAX)
def _sold_into(state: curve.Curve | amm.Pool, tokens: int) -> Swap | None:
    return curve.quote_sell(state, tokens) if isinstance(state, curve.Curve) else amm.quote_sell(state, tokens)


def sale(price: Price | None, tokens: int) -> Swap | None:
    """What selling `tokens` gives now; None where they cannot be sold (no price, a complete curve that has not
    migrated, a drained pool)."""
    if price is None or price.state is None or (isinstance(price.state, curve.Curve) and price.state.complete):
        return None
    return _sold_into(price.state, tokens)


def proceeds_lamports(price: Price | None, tokens: int) -> int | None:
    """What selling `tokens` would return now, the venue's fees taken off, the network's not; None as for `sale`."""
    swap = sale(price, tokens)
    return None if swap is None else swap.lamports


def _unknown(intent: Intent, price: Price | None) -> tuple[Reason, str]:
    if price is not None and not price.known_arithmetic:
        return Reason.UNKNOWN_ARITHMETIC, f"no formula for pool {price.pool!r}"
    if price is not None and price.migrated_at_ns is not None and intent.side is Side.BUY:
        return Reason.CURVE_COMPLETE, "it has left its curve, and its pool's reserves are not known"
    return Reason.NO_PRICE, "the market's reserves are not known"


def _buy(intent: Intent, price: Price, state: curve.Curve | amm.Pool, fee_lamports: int, at_ns: int) -> Fill | Refusal:
    if isinstance(state, curve.Curve) and state.complete:
        return _refused(intent, Reason.CURVE_COMPLETE, "every token of the curve is sold", at_ns)
    swap = purchase(state, max(0, intent.lamports - fee_lamports))
    if swap.tokens == 0:
        return _refused(intent, Reason.TOO_SMALL, f"{intent.lamports} lamports buy nothing", at_ns)
    if swap.tokens < intent.tokens:
        return _refused(intent, Reason.SLIPPAGE, f"{swap.tokens} tokens, at least {intent.tokens} wanted", at_ns)
    return _filled(intent, swap, swap.lamports + fee_lamports, fee_lamports, price, at_ns)


def _sell(intent: Intent, price: Price, fee_lamports: int, at_ns: int) -> Fill | Refusal:
    swap = sale(price, intent.tokens)
    if swap is None:
        return _refused(intent, Reason.NO_PRICE, "the market takes no sale of this size now", at_ns)
    if swap.lamports == 0:
        return _refused(intent, Reason.TOO_SMALL, f"{intent.tokens} tokens return nothing", at_ns)
    if swap.lamports < intent.lamports:
        return _refused(intent, Reason.SLIPPAGE, f"{swap.lamports} lamports, at least {intent.lamports} wanted", at_ns)
    return _filled(intent, swap, swap.lamports - fee_lamports, fee_lamports, price, at_ns)


def _filled(intent: Intent, swap: Swap, lamports: int, fee_lamports: int, price: Price, at_ns: int) -> Fill:
    return Fill(
        id=f"{intent.id}:fill",
        order_id=intent.id,
        signal_id=intent.signal_id,
        mint=intent.mint,
        side=intent.side,
        tokens=swap.tokens,
        lamports=lamports,
        curve_lamports=swap.curve_lamports,
        protocol_fee_lamports=swap.protocol_fee_lamports,
        creator_fee_lamports=swap.creator_fee_lamports,
        network_fee_lamports=fee_lamports,
        reason=intent.reason,
        price_at_ns=price.seen_at_ns,
        at_ns=at_ns,
    )


def _refused(intent: Intent, reason: Reason, detail: str, at_ns: int) -> Refusal:
    return Refusal(
        id=f"{intent.id}:refused",
        signal_id=intent.signal_id,
        order_id=intent.id,
        mint=intent.mint,
        side=intent.side,
        reason=reason,
        detail=detail,
        at_ns=at_ns,
    )
