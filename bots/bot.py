"""One user's bot: signals, prices and deadlines -> what goes into the user's ledger.

Nothing here changes an account; the caller hands the entries to `positions.take` before it asks again. An order is
decided first and lands later (`paper.LANDING_NS_DEFAULT`): deciding writes its Intent, landing its Fill or Refusal.

**Every signal gets exactly one outcome**, whatever happens:

    decided     BUY    [Intent]                      or [Refusal], a limit or the expiry: no order was made
                SELL   [Intent] for all that is held, or [Refusal]
    landed      Fill, or a Refusal that names the order

The sale that a SELL asks for carries the id of the SELL signal, which it settles, while the order's id still derives
from the opening order.

**Exits** (`on_price`, `on_alarm`, `on_time`) carry the id of the signal that opened the position. One that could not be
carried out now (no price, a curve waiting for its migration) is not ordered, and leaves nothing in the ledger: it would
be written again with every trade. It is decided anew with the next price, or at the deadline (`exits.RETRY_NS`). One
that was ordered and meets such a market when it lands is refused, and its position waits as `exits` says. They need no
running bot: who stops a bot stops its entries, and its positions still end by their rules, or at once if the user says
so.

`at_ns` is the caller's time, that of the event or deadline being worked on; it is also what the entries carry.
"""

from __future__ import annotations

from typing import Final

from bots import exits, paper, risk
from bots.exits import Exit
from bots.mandate import Mandate
from bots.paper import network_fee_lamports
from bots.positions import Account, Position, mark
from bots.prices import NOTHING_HEARD, Feed, Price
from bots.risk import Denial
from schemas import curve
from schemas.config import Terms, Venue
from schemas.events import Entry, Fill, Intent, Reason, Refusal, Side, Signal
from schemas.money import BPS, ceil_div

_VENUE: Final = str(Venue.PAPER)


def on_signal(
    account: Account, mandate: Mandate, signal: Signal, price: Price | None, at_ns: int, halted: str = ""
) -> list[Entry]:
    """The order that a signal leads to, or why it leads to none: one entry.

    price: the newest known of the mint; asked only where the signal carries no curve that sells. halted: why nobody may
    enter; "" while everybody may.
    """
    denial = risk.late(signal, at_ns)
    if denial is not None:
        return [_refusal(signal, denial, at_ns)]
    if signal.side is Side.SELL:
        return [_leave(account, mandate, signal, at_ns)]
    denial = risk.check_entry(account, mandate, signal, at_ns, halted)
    if denial is not None:
        return [_refusal(signal, denial, at_ns)]
    return [_enter(mandate.terms, signal, price, at_ns)]


def land(account: Account, mandate: Mandate, intent: Intent, price: Price | None, at_ns: int) -> Fill | Refusal:
    """What becomes of a pending order at the market that it meets.

    price: the newest known after every event up to the landing. mandate: for the priority fee.
    """
    if intent.side is Side.SELL:
        position = account.positions.get(intent.mint)
        if position is None or position.tokens < intent.tokens:
            return _lost(intent, at_ns)
    return paper.execute(intent, price, network_fee_lamports(mandate.terms), at_ns)


def on_price(
    account: Account, mint: str, mandate: Mandate, price: Price, at_ns: int, feed: Feed = NOTHING_HEARD
) -> list[Entry]:
    """The order to sell that a new price causes, if any; notes the position's highest value on the way."""
    position = account.positions.get(mint)
    if position is None:
        return []
    proceeds = _observed(position, price)
    return _exit(position, mandate, price, proceeds, feed, at_ns)


def on_time(
    account: Account, mint: str, mandate: Mandate, price: Price | None, at_ns: int, feed: Feed = NOTHING_HEARD
) -> list[Entry]:
    """The order to sell that is due by time, by a stop that closes, or after a landing, if any, at the last known
    price. None: no price is known, nothing is sold."""
    position = account.positions.get(mint)
    if position is None or price is None:
        return []
    return _exit(position, mandate, price, paper.proceeds_lamports(price, position.tokens), feed, at_ns)


# A rug alarm is in the price (`Prices.alarm`): what it causes is decided like everything else, and tried as long.
on_alarm = on_time


def observe(account: Account, mint: str, price: Price) -> None:
    """Note a position's highest value without deciding: for prices read back after a restart."""
    position = account.positions.get(mint)
    if position is not None:
        _observed(position, price)


def next_deadline_ns(
    account: Account, mint: str, mandate: Mandate, price: Price | None, after_ns: int, feed: Feed = NOTHING_HEARD
) -> int | None:
    """When `on_time` should next be asked about a mint, which was last looked at at `after_ns`; None where it is not
    held, or being sold: then it is asked right after the landing."""
    position = account.positions.get(mint)
    if position is None:
        return None
    return exits.next_deadline_ns(position, mandate, price, feed, after_ns)


def _observed(position: Position, price: Price) -> int | None:
    """Prices up to the opening are no part of the position's history, also when they are read back later."""
    proceeds = paper.proceeds_lamports(price, position.tokens)
    if proceeds is not None and price.seen_at_ns > position.opened_at_ns:
        mark(position, proceeds)
    return proceeds


def _enter(terms: Terms, signal: Signal, price: Price | None, at_ns: int) -> Intent | Refusal:
    expected = _expected_tokens(terms, signal, price)
    if isinstance(expected, Denial):
        return _refusal(signal, expected, at_ns)
    return Intent(
        id=f"{signal.id}:buy",
        signal_id=signal.id,
        mint=signal.mint,
        side=Side.BUY,
        lamports=terms.buy_lamports,
        # Rounded up: the fewest to accept is never below what the user's limit says.
        tokens=ceil_div(expected * (BPS - terms.slippage_bps), BPS),
        venue=_VENUE,
        reason=Reason.SIGNAL,
        at_ns=at_ns,
    )


def _expected_tokens(terms: Terms, signal: Signal, price: Price | None) -> int | Denial:
    """What the order would buy in the market that was analysed: the signal's curve, so that a price that ran away
    since is refused; where that curve is complete or there is none, the newest known market."""
    at_signal = None if signal.market is None else curve.from_market(signal.market)
    state = at_signal if at_signal is not None and not at_signal.complete else None if price is None else price.state
    if isinstance(state, curve.Curve) and state.complete:
        return Denial(Reason.CURVE_COMPLETE, "every token of the curve is sold")
    if state is None:
        if at_signal is not None:
            return Denial(Reason.CURVE_COMPLETE, "complete when it was signalled, and its pool is not known")
        if not signal.arithmetic_known:
            return Denial(Reason.UNKNOWN_ARITHMETIC, "this coin's prices follow no formula that is known")
        return Denial(Reason.NO_PRICE, "the market's reserves are not known")
    tokens = paper.purchase(state, max(0, terms.buy_lamports - network_fee_lamports(terms))).tokens
    return tokens or Denial(Reason.TOO_SMALL, f"{terms.buy_lamports} lamports buy nothing")


def _leave(account: Account, mandate: Mandate, signal: Signal, at_ns: int) -> Intent | Refusal:
    position = account.positions.get(signal.mint)
    if not mandate.running:
        denial = Denial(Reason.NOT_RUNNING, "the bot is stopped")
    elif position is None:
        denial = Denial(Reason.NOT_HELD, "this coin is not held")
    elif position.selling is not None:
        denial = Denial(Reason.NOT_HELD, "this coin is being sold already")
    else:
        return _sale(position, signal.id, position.tokens, 0, Reason.SELL_SIGNAL, at_ns)
    return _refusal(signal, denial, at_ns)


def _exit(
    position: Position, mandate: Mandate, price: Price, proceeds: int | None, feed: Feed, at_ns: int
) -> list[Entry]:
    exit_ = exits.decide(position, mandate, price, proceeds, feed, at_ns)
    if exit_ is None:
        return []
    swap = paper.sale(price, exit_.tokens)
    if swap is None or swap.lamports == 0:
        return []
    floor = _floor_lamports(mandate.terms, exit_, swap.lamports)
    return [_sale(position, position.signal_id, exit_.tokens, floor, exit_.reason, at_ns)]


def _floor_lamports(terms: Terms, exit_: Exit, proceeds_lamports: int) -> int:
    """The least to accept, before the network's fee, as the program compares it. An exit that must happen has none: a
    stop that waits for a better price is no stop, and a position that cannot be sold is a larger loss than a bad
    price."""
    return ceil_div(proceeds_lamports * (BPS - terms.slippage_bps), BPS) if exit_.patient else 0


def _sale(position: Position, signal_id: str, tokens: int, lamports: int, reason: Reason, at_ns: int) -> Intent:
    return Intent(
        id=f"{position.order_id}:exit{position.exits + 1}",
        signal_id=signal_id,
        mint=position.mint,
        side=Side.SELL,
        lamports=lamports,
        tokens=tokens,
        venue=_VENUE,
        reason=reason,
        at_ns=at_ns,
    )


def _lost(intent: Intent, at_ns: int) -> Refusal:
    """An order to sell what is not held any more, which only a ledger of somebody else's making can lead to."""
    return Refusal(
        id=f"{intent.id}:refused",
        signal_id=intent.signal_id,
        order_id=intent.id,
        mint=intent.mint,
        side=intent.side,
        reason=Reason.NOT_HELD,
        detail="this coin is not held",
        at_ns=at_ns,
    )


def _refusal(signal: Signal, denial: Denial, at_ns: int) -> Refusal:
    return Refusal(
        id=f"{signal.id}:refused",
        signal_id=signal.id,
        order_id=None,
        mint=signal.mint,
        side=signal.side,
        reason=denial.reason,
        detail=denial.detail,
        at_ns=at_ns,
    )
