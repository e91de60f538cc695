"""One user's bot: signals, prices and deadlines -> what goes into the user's ledger.

Nothing here changes an account; the caller hands the entries to `positions.take` before it asks again.

**Every signal gets exactly one outcome**, whatever happens:

    BUY    [Intent, Fill]               bought
           [Intent, Refusal]            the venue refused the order (its order_id is set)
           [Refusal]                    a limit, the expiry, or a market that sells nothing: no order was made
    SELL   [Intent, Fill]               all of it sold, for SELL_SIGNAL; both carry the id of the SELL signal, which
                                        they settle, while the order's id still derives from the opening order
           [Intent, Refusal] or [Refusal]

**Exits** (`on_price`, `on_time`) carry the id of the signal that opened the position. One that cannot be carried out
(no price, a curve waiting for its migration) leaves nothing in the ledger: it would be written again with every trade.
It is decided anew with the next price, or at the deadline (`exits.RETRY_NS`). They need no running bot: who stops a bot
stops its entries, and its positions still end by their rules.
"""

from __future__ import annotations

from typing import Final

from bots import exits, paper, risk
from bots.positions import Account, Position, mark
from bots.prices import Price, of_market
from bots.risk import Denial
from schemas import curve
from schemas.config import Terms, Venue
from schemas.events import Entry, Fill, Intent, Reason, Refusal, Side, Signal
from schemas.money import BPS, ceil_div

_VENUE: Final = str(Venue.PAPER)


def on_signal(account: Account, terms: Terms | None, signal: Signal, price: Price | None, now_ns: int) -> list[Entry]:
    """The outcome of a signal.

    terms: None while the user's bot is not wanted running.
    price: the newest known of the mint; where it is not newer than the signal's own market, that one counts.
    """
    denial = risk.late(signal, now_ns)
    if denial is not None:
        return [_refusal(signal, denial, now_ns)]
    if terms is None:
        return [_refusal(signal, Denial(Reason.NOT_RUNNING, "the bot is stopped"), now_ns)]
    if price is None or price.seen_at_ns <= signal.market.seen_at_ns:
        price = of_market(signal.mint, signal.market)
    if signal.side is Side.BUY:
        return _enter(account, terms, signal, price, now_ns)
    return _leave(account, signal, price, now_ns)


def on_price(account: Account, mint: str, terms: Terms, price: Price, now_ns: int) -> list[Entry]:
    """The exit that a new price causes, if any; notes the position's highest value on the way."""
    position = account.positions.get(mint)
    if position is None:
        return []
    value = _observed(position, price)
    return _exit(position, terms, price, value, now_ns)


def on_time(account: Account, mint: str, terms: Terms, price: Price | None, now_ns: int) -> list[Entry]:
    """The exit that is due by time, if any, at the last known price. None: no price is known, nothing is sold."""
    position = account.positions.get(mint)
    if position is None or price is None:
        return []
    return _exit(position, terms, price, paper.proceeds_lamports(price, position.tokens), now_ns)


def observe(account: Account, mint: str, price: Price) -> None:
    """Note a position's highest value without deciding: for prices read back after a restart."""
    position = account.positions.get(mint)
    if position is not None:
        _observed(position, price)


def next_deadline_ns(account: Account, mint: str, terms: Terms, price: Price | None) -> int | None:
    """When `on_time` should next be asked about a mint; None where it is not held."""
    position = account.positions.get(mint)
    if position is None:
        return None
    return exits.next_deadline_ns(position, terms, None if price is None else price.migrated_at_ns)


def _observed(position: Position, price: Price) -> int | None:
    value = paper.proceeds_lamports(price, position.tokens)
    if value is not None:
        mark(position, value)
    return value


def _enter(account: Account, terms: Terms, signal: Signal, price: Price, now_ns: int) -> list[Entry]:
    denial = risk.check_entry(account, terms, signal.mint, now_ns)
    if denial is not None:
        return [_refusal(signal, denial, now_ns)]
    at_signal = curve.from_market(signal.market)
    if at_signal.complete:
        return [_refusal(signal, Denial(Reason.CURVE_COMPLETE, "complete when it was signalled"), now_ns)]
    expected = curve.quote_buy_sol(at_signal, terms.buy_lamports).tokens
    if expected == 0:
        return [_refusal(signal, Denial(Reason.TOO_SMALL, f"{terms.buy_lamports} lamports buy nothing"), now_ns)]
    intent = Intent(
        id=f"{signal.id}:buy",
        signal_id=signal.id,
        mint=signal.mint,
        side=Side.BUY,
        lamports=terms.buy_lamports,
        # Rounded up: the fewest to accept is never below what the user's limit says.
        tokens=ceil_div(expected * (BPS - terms.slippage_bps), BPS),
        venue=_VENUE,
        reason=Reason.SIGNAL,
        at_ns=now_ns,
    )
    return [intent, paper.execute(intent, price, now_ns)]


def _leave(account: Account, signal: Signal, price: Price, now_ns: int) -> list[Entry]:
    position = account.positions.get(signal.mint)
    if position is None:
        return [_refusal(signal, Denial(Reason.NOT_HELD, "this coin is not held"), now_ns)]
    intent = _sale(position, signal.id, position.tokens, Reason.SELL_SIGNAL, now_ns)
    return [intent, paper.execute(intent, price, now_ns)]


def _exit(position: Position, terms: Terms, price: Price, value: int | None, now_ns: int) -> list[Entry]:
    exit_ = exits.decide(position, terms, value, price.migrated_at_ns, now_ns)
    if exit_ is None:
        return []
    intent = _sale(position, position.signal_id, exit_.tokens, exit_.reason, now_ns)
    outcome = paper.execute(intent, price, now_ns)
    return [intent, outcome] if isinstance(outcome, Fill) else []


def _sale(position: Position, signal_id: str, tokens: int, reason: Reason, now_ns: int) -> Intent:
    return Intent(
        id=f"{position.order_id}:exit{position.exits + 1}",
        signal_id=signal_id,
        mint=position.mint,
        side=Side.SELL,
        lamports=0,  # no floor: an exit must happen (bots/paper.py)
        tokens=tokens,
        venue=_VENUE,
        reason=reason,
        at_ns=now_ns,
    )


def _refusal(signal: Signal, denial: Denial, now_ns: int) -> Refusal:
    return Refusal(
        id=f"{signal.id}:refused",
        signal_id=signal.id,
        order_id=None,
        mint=signal.mint,
        side=signal.side,
        reason=denial.reason,
        detail=denial.detail,
        at_ns=now_ns,
    )
