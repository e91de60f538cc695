"""The paper venue: an order and the market -> a fill with the real fees, or a refusal with its reason.

The market is taken as it is: our own paper trades leave no trace in it. A sale is therefore priced without the SOL that
our purchase would have added, which is against us; for the same reason a curve is not asked whether others put enough
SOL into it. A pool is, as its reserves do not hang on our purchase.

A buy has a floor of tokens (slippage). An exit carries a floor of 0 lamports: a stop that waits for a better price is
none, and a position that cannot be sold is a larger loss than a bad price. What is charged is exact:

    buy     lamports = curve_lamports + protocol_fee + creator_fee, at most the order's
    sell    lamports = curve_lamports - protocol_fee - creator_fee
"""

from __future__ import annotations

from typing import Union

from bots.prices import Price
from schemas import amm, curve
from schemas.events import Fill, Intent, Reason, Refusal, Side

Swap = Union[curve.Swap, amm.Swap]  # noqa: UP007


def execute(intent: Intent, price: Price | None, now_ns: int) -> Fill | Refusal:
    """Carry an order out against the last known market; None: nothing is known of it."""
    if price is None or price.state is None:
        if price is not None and not price.known_arithmetic:
            return _refused(intent, Reason.UNKNOWN_ARITHMETIC, f"no arithmetic for pool {price.pool!r}", now_ns)
        return _refused(intent, Reason.NO_PRICE, "the market's reserves are not known", now_ns)
    if intent.side is Side.BUY:
        return _buy(intent, price, price.state, now_ns)
    return _sell(intent, price, now_ns)


def proceeds_lamports(price: Price | None, tokens: int) -> int | None:
    """What selling `tokens` would return now, fees taken off; None where they cannot be sold (no price, a complete
    curve that has not migrated, a drained pool)."""
    swap = _sale(price, tokens)
    return None if swap is None else swap.lamports


def _buy(intent: Intent, price: Price, state: curve.Curve | amm.Pool, now_ns: int) -> Fill | Refusal:
    swap: Swap
    if isinstance(state, curve.Curve):
        if state.complete:
            return _refused(intent, Reason.CURVE_COMPLETE, "every token of the curve is sold", now_ns)
        swap = curve.quote_buy_sol(state, intent.lamports)
    else:
        swap = amm.quote_buy_sol(state, intent.lamports)
    if swap.tokens == 0:
        return _refused(intent, Reason.TOO_SMALL, f"{intent.lamports} lamports buy nothing", now_ns)
    if swap.tokens < intent.tokens:
        return _refused(intent, Reason.SLIPPAGE, f"{swap.tokens} tokens, at least {intent.tokens} wanted", now_ns)
    return _filled(intent, swap, price, now_ns)


def _sell(intent: Intent, price: Price, now_ns: int) -> Fill | Refusal:
    swap = _sale(price, intent.tokens)
    if swap is None:
        return _refused(intent, Reason.NO_PRICE, "the market takes no sale of this size now", now_ns)
    if swap.lamports == 0:
        return _refused(intent, Reason.TOO_SMALL, f"{intent.tokens} tokens return nothing", now_ns)
    if swap.lamports < intent.lamports:
        return _refused(intent, Reason.SLIPPAGE, f"{swap.lamports} lamports, at least {intent.lamports} wanted", now_ns)
    return _filled(intent, swap, price, now_ns)


def _sale(price: Price | None, tokens: int) -> Swap | None:
    state = None if price is None else price.state
    if isinstance(state, curve.Curve):
        return None if state.complete else curve.quote_sell(state, tokens)
    return None if state is None else amm.quote_sell(state, tokens)


def _filled(intent: Intent, swap: Swap, price: Price, now_ns: int) -> Fill:
    return Fill(
        id=f"{intent.id}:fill",
        order_id=intent.id,
        signal_id=intent.signal_id,
        mint=intent.mint,
        side=intent.side,
        tokens=swap.tokens,
        lamports=swap.lamports,
        curve_lamports=swap.curve_lamports,
        protocol_fee_lamports=swap.protocol_fee_lamports,
        creator_fee_lamports=swap.creator_fee_lamports,
        reason=intent.reason,
        price_at_ns=price.seen_at_ns,
        at_ns=now_ns,
    )


def _refused(intent: Intent, reason: Reason, detail: str, now_ns: int) -> Refusal:
    return Refusal(
        id=f"{intent.id}:refused",
        signal_id=intent.signal_id,
        order_id=intent.id,
        mint=intent.mint,
        side=intent.side,
        reason=reason,
        detail=detail,
        at_ns=now_ns,
    )
